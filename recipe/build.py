"""Build script of every output of recipe.yaml, for conda-build, rattler-build and `satenv build` alike.

Which output is built is in PKG_NAME. A piece is made from one file of PyPI, named with its SHA-256 in pins.txt: pip
fetches it from the user's index or takes it from SATENV_WHEELHOUSE. The metapackage is made from the checkout.
Standard library and pip only.
"""

from __future__ import annotations

import ast
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.dont_write_bytecode = True  # the checkout may be read-only, and the recipe stays clean

from cogvideo_sat_env.base.wheel_patch import PatchError, patch_wheel, patches_of  # noqa: E402

RECIPE = Path(os.environ["RECIPE_DIR"])
WORK = Path(os.environ["SRC_DIR"])
PREFIX = Path(os.environ["PREFIX"])
# without Python among the host packages (binary wheels: they may be another platform's) it is the wheels' 3.11
SITE = Path(os.environ.get("SP_DIR") or PREFIX / "lib" / "python3.11" / "site-packages")
NAME = os.environ["PKG_NAME"]

# platform tags of wheels that are not for every machine: also where another machine builds the package
WHEEL_TAGS = {
    "python-ninja": ("manylinux2014_x86_64",),  # its Python files are the same in every wheel
    "decord": ("manylinux2010_x86_64",),
    "decord2": ("manylinux_2_28_aarch64",),
    "eva-decord": ("macosx_11_0_arm64",),
}
OFFLINE = ("--no-deps", "--no-index")
PYPI_NAMES = {"python-ninja": "ninja"}  # where PyPI calls it otherwise


# sh reads the second line, Python the second and third as a string; a line of #! itself can't be relative
SHEBANG = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""


def main() -> None:
    """Build the output that PKG_NAME names into PREFIX."""
    if NAME == "cogvideo-sat-env":
        build_metapackage()
    else:
        build_piece()


def build_piece() -> None:
    """Install the pinned file of PyPI, and nothing else, into site-packages of PREFIX."""
    name, version = PYPI_NAMES.get(NAME, NAME), os.environ["PKG_VERSION"]
    fetched = WORK / "fetched"
    fetch(pin_of(name, version), fetched)
    if NAME == "deepspeed":
        run_pip("wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", WORK / "built", *fetched.iterdir())
        fetched = WORK / "built"
    (wheel,) = fetched.glob("*.whl")
    patches = patches_of(RECIPE, NAME)
    if patches:
        try:
            patch_wheel(wheel, patches)
        except PatchError as error:
            sys.exit(f"build.py: {error}")
    found = [*OFFLINE, "--find-links", fetched, f"{name}=={version}"]  # by name: a path would be recorded
    if NAME == "deepspeed":  # has programs
        run_pip("install", "--prefix", PREFIX, "--no-compile", "--no-warn-script-location", *found)
    else:
        run_pip("install", "--target", SITE, "--no-compile", *platform_options(), *found)
        shutil.rmtree(SITE / "bin", ignore_errors=True)  # programs: conda makes those of entry points itself
    stem = f"{name.replace('-', '_')}-{version}.dist-info"
    (info,) = (path for path in SITE.glob("*.dist-info") if path.name.lower() == stem)
    for row in (info / "RECORD").read_text(encoding="utf-8").splitlines():
        if "/bin/" in row and row.startswith(".."):
            relocate(SITE / row.rsplit(",", 2)[0])
    tidy(info)
    carry_licence(info)


def pin_of(name: str, version: str) -> str:
    """Return the line of pins.txt. Ends the build when it names another version than recipe.yaml builds."""
    for line in (RECIPE / "pins.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}=={version} "):
            return line
    sys.exit(f"build.py: pins.txt names no file for {name}=={version}; make it anew: scripts/satenv lock --render")


def fetch(pin: str, folder: Path) -> None:
    """Have pip put the pinned file into `folder`: from the user's index, or from SATENV_WHEELHOUSE."""
    requirements = WORK / "requirements.txt"
    requirements.write_text(f"{pin}\n", encoding="utf-8")
    where: list[str | Path] = []
    wheelhouse = os.environ.get("SATENV_WHEELHOUSE")
    if wheelhouse:
        house = Path(unquote(urlsplit(wheelhouse).path) if wheelhouse.startswith("file:") else wheelhouse)
        if not house.is_dir():
            sys.exit(f"build.py: SATENV_WHEELHOUSE: no such folder: {house}")
        where = ["--no-index", "--find-links", house]
    run_pip(
        "download", "--no-deps", "--no-build-isolation", "--require-hashes", *where, *platform_options(),
        "--dest", folder, "--requirement", requirements, online=not wheelhouse,
    )  # fmt: skip


def platform_options() -> list[str]:
    """Return the options that make pip take a wheel for the target instead of this machine."""
    if NAME not in WHEEL_TAGS:
        return []
    tags = [option for tag in WHEEL_TAGS[NAME] for option in ("--platform", tag)]
    return [*tags, "--python-version", "3.11", "--only-binary", ":all:"]


def run_pip(*arguments: str | Path, online: bool = False) -> None:
    """Run pip; ends the build with its exit code when it fails. Only an `online` call sees the user's index."""
    env = dict(os.environ)
    env.pop("PIP_NO_INDEX", None)  # set by the build tools
    if online:
        env["HOME"] = home()  # theirs is the work folder, and the user's pip.conf lies in the real one
    else:
        for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            env.pop(name, None)
        env["PIP_CONFIG_FILE"] = os.devnull
    # what a configuration file may say about installing is not about this
    env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    env |= {"PIP_ROOT_USER_ACTION": "ignore"}
    # the same bytes everywhere: DeepSpeed asks for GPUs, and git for the revision of a repository around the build
    env |= {"DS_ACCELERATOR": "cpu", "GIT_DIR": os.devnull, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "1577836800"}
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], env=env, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def home() -> str:
    """Return the user's home directory, of which the build tools hide the variable."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container with a user id that has no entry
        return os.environ.get("HOME", "/")


def relocate(program: Path) -> None:
    """Make a script run the Python beside it, wherever the prefix is: the build's own path stays out of the package."""
    if not program.is_file():  # taken out above
        return
    first, _, rest = program.read_bytes().partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        program.write_bytes(SHEBANG + rest)


def tidy(info: Path) -> None:
    """Make the installed metadata the same on every machine, and as conda's packages have it."""
    (info / "INSTALLER").write_text("conda\n", encoding="utf-8")
    for name in ("REQUESTED", "direct_url.json"):
        (info / name).unlink(missing_ok=True)
    record = info / "RECORD"
    rows = record.read_text(encoding="utf-8").splitlines()
    left = [row for row in rows if (SITE / row.rsplit(",", 2)[0].strip('"')).exists()]
    rows = [f"{row.rsplit(',', 2)[0]},," if "/INSTALLER," in row or row.startswith("..") else row for row in left]
    record.write_text("".join(f"{row}\n" for row in sorted(rows)), encoding="utf-8")


def carry_licence(info: Path) -> None:
    """Put the distribution's licence where recipe.yaml's license_file looks for it."""
    found = sorted(path for path in info.rglob("LICEN[CS]E*") if path.is_file())
    if found:
        shutil.copyfile(found[0], WORK / "LICENSE")


def build_metapackage() -> None:
    """Lay out the doctor, the command and the activation scripts."""
    source = WORK / "cogvideo_sat_env"
    library = PREFIX / "lib" / "cogvideo-sat-env"
    for path in sorted(closure(source)):
        install(source / path, library / "cogvideo_sat_env" / path)
    for name in ("cli.py", "cogvideo-sat-env"):
        target = library / "main.py" if name == "cli.py" else PREFIX / "bin" / name
        install(RECIPE / "command" / name, target, executable=name != "cli.py")
    for step in ("activate", "deactivate"):
        for shell in ("sh", "fish", "csh"):
            script = source / "install" / "activation" / f"{step}.{shell}"
            install(script, PREFIX / "etc" / "conda" / f"{step}.d" / f"cogvideo-sat-env.{shell}")
    if os.environ["SUBDIR"] != "osx-arm64":  # data preparation loads no checkpoint of SAT's
        variables = PREFIX / "etc" / "conda" / "env_vars.d" / "cogvideo-sat-env.json"
        variables.parent.mkdir(parents=True)
        variables.write_text(json.dumps({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}) + "\n", encoding="utf-8")
        variables.chmod(0o644)


def closure(source: Path) -> set[str]:
    """Return the files that the doctor consists of: its folder, the data, and the modules that it imports."""
    kept = {path for folder in ("doctor", "data") for path in (source / folder).rglob("*") if path.is_file()}
    todo = [path for path in kept if path.suffix == ".py"] + [source / "__init__.py"]
    while todo:
        path = todo.pop()
        kept.add(path)
        for module in imported(path):
            file = source.parent / Path(*module.split("."))
            for candidate in (file.with_suffix(".py"), file / "__init__.py"):
                if candidate.is_file() and candidate not in kept:
                    kept.add(candidate)
                    todo.append(candidate)
    return {str(path.relative_to(source)) for path in kept if "__pycache__" not in path.parts}


def imported(path: Path) -> set[str]:
    """Return the modules of cogvideo_sat_env that the file imports, those inside functions among them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.partition(".")[0] == "cogvideo_sat_env"}


def install(source: Path, target: Path, *, executable: bool = False) -> None:
    """Copy a file with the modes of an installed one, whatever the checkout's are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if executable else 0o644)


if __name__ == "__main__":
    main()
