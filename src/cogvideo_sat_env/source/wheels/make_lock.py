"""The wheel lock: every file of a package index that the environment needs, by SHA-256; made with pip's resolver."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import tomlkit
from packaging.utils import canonicalize_name
from packaging.version import Version

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, MissingToolError, SourceError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.source.wheels.fetch import build_sdist, build_venv
from cogvideo_sat_env.source.wheels.interpreter import Interpreter, private_venv, probe
from cogvideo_sat_env.source.wheels.lockfile import build_lock_path, is_sdist, lock_name, read_wheel_lock, spec_hash
from cogvideo_sat_env.source.wheels.names import divide
from cogvideo_sat_env.source.wheels.pip import download, run_pip
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.pypi_names import load_names

_ATTEMPTS = 20
_OLDEST = ("--python-version", "3.10", "--only-binary", ":all:", "--target", "/nonexistent")  # pip wants a target


def make_wheel_lock(
    environment: Environment, *, python: Path, out_dir: Path, until: str = "", progress: Progress
) -> Path:
    """Resolve the environment file on the configured package index and write the wheel lock into `out_dir`.

    For the running platform and the minor version of the interpreter `python`. Writes a second file,
    `wheels-build-…`, when a project has only an sdist: what builds it with the oldest Python builds it with all, which
    is proven by building it.
    Raises InputError, SourceError, SolveError, PrefixError.
    """
    interpreter = probe(python)
    wanted, _ = divide(environment, load_names())
    old = ("--uploaded-prior-to", f"{until}Z") if until else ()
    requirements = sorted({item.requirement() for item in wanted})
    with scratch_folder("satenv-lock-") as work:
        venv = private_venv(interpreter, work / "venv")
        progress.say(f"Resolving {len(requirements)} names with pip for Python {interpreter.minor}")
        pins = _resolve(venv, requirements, work, "can't lock the wheels", old)
        sdists = [pin for pin in pins if is_sdist(pin)]
        needs = set()
        for pin in sdists:
            progress.say(f"{pin.name} {pin.version} has only an sdist: locking what builds it")
            needs |= set(_build_requirements(venv, pin, work))
        what = "can't lock the build requirements"
        build = _resolve(venv, sorted(needs), work, what, (*_OLDEST, *old)) if needs else []
        for pin in sdists:
            venv = build_venv(interpreter, build, work / f"build-{pin.name}")
            build_sdist(venv, pin, work / "sdists" / pin.file_name, work / "built")
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / lock_name(interpreter.platform, interpreter.minor)
    write_atomically(path, _text(_head(environment, interpreter), pins))
    if build:
        names = ", ".join(pin.name for pin in sdists)
        head = (
            f"The files that build {names}, which a package index has only as source.",
            f"platform: {interpreter.platform}",
        )
        write_atomically(build_lock_path(path), _text(head, build))
    elif not any(read_wheel_lock(other).build for other in out_dir.glob(lock_name(interpreter.platform, "*"))):
        build_lock_path(path).unlink(missing_ok=True)
    return path


def _resolve(venv: Path, requirements: list[str], work: Path, doing: str, target: Sequence[str] = ()) -> list[PipPin]:
    """Resolve with pip for `target` (options); versions with a local part (`+cpu`) are refused: no files of PyPI's."""
    wanted, refused, report = work / "requirements.in", work / "constraints.txt", work / "report.json"
    wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    excluded: list[str] = []
    for _ in range(_ATTEMPTS):
        refused.write_text("".join(f"{line}\n" for line in excluded), encoding="utf-8")
        run_pip(
            venv,
            ["install", "--quiet", "--dry-run", "--ignore-installed", "--prefer-binary", "--report", str(report),
             "-r", str(wanted), "-c", str(refused), *target],
            doing,
        )  # fmt: skip
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
        local = [e["metadata"] for e in entries if Version(e["metadata"]["version"]).local]
        if not local:
            pins = [_pin(entry) for entry in entries]
            return sorted(pins, key=lambda pin: pin.name)
        excluded.extend(f"{entry['name']}!={entry['version']}" for entry in local)
    raise SourceError(
        f"{doing}: the configured indexes offer only versions with a local part: {', '.join(excluded)}",
        "take the extra index with such builds out of pip's configuration",
    )


def _pin(entry: dict) -> PipPin:
    name, version = str(canonicalize_name(entry["metadata"]["name"])), entry["metadata"]["version"]
    download = entry["download_info"]
    sha256 = download.get("archive_info", {}).get("hashes", {}).get("sha256")
    if not sha256:
        raise SourceError(f"{name} {version}: the package index gives no SHA-256 for its file", "use another index")
    return PipPin(name, version, sha256, unquote(PurePosixPath(urlsplit(download["url"]).path).name))


def _build_requirements(venv: Path, pin: PipPin, work: Path) -> list[str]:
    """Return what the sdist's pyproject.toml says it is built with; setuptools when it says nothing (PEP 518)."""
    folder = work / "sdists"
    download(venv, [pin], folder, f"can't download {pin.file_name}", "--no-binary", pin.name)
    text = "" if pin.file_name.endswith(".zip") else _pyproject(folder / pin.file_name)
    declared = tomlkit.parse(text).unwrap().get("build-system", {}).get("requires")
    return [str(item) for item in declared] if declared else ["setuptools>=40.8.0"]


def _pyproject(sdist: Path) -> str:
    with tarfile.open(sdist) as archive:
        for member in archive:
            if len(PurePosixPath(member.name).parts) == 2 and member.name.endswith("/pyproject.toml"):
                stream = archive.extractfile(member)
                return stream.read().decode("utf-8") if stream else ""
    return ""


def _head(environment: Environment, interpreter: Interpreter) -> tuple[str, ...]:
    python = environment.conda_spec("python")
    return (
        f"{environment.path.name} as files of a package index, for {interpreter.platform} with Python "
        f"{interpreter.minor}.",
        f"{environment.path.name} asks for `{python or 'python'}`; the wheels source takes the running Python, "
        f"here {interpreter.minor}.",
        f"platform: {interpreter.platform}",
        f"python: {interpreter.minor}",
        f"spec-sha256: {spec_hash(environment)}",
    )


def _text(head: Sequence[str], pins: Sequence[PipPin]) -> bytes:
    lines = [
        f"# {head[0]}",
        "# Made by `scripts/satenv lock --wheels` with pip's resolver; not written by hand.",
        "# Each line admits exactly one file, wherever the configured index keeps it: pip install --require-hashes",
        *(f"# {line}" for line in head[1:]),
        *(f"{pin.requirement()}  # {pin.file_name}" for pin in pins),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def lock_wheels(root: Path, *, pythons: Sequence[Path], until: str = "", progress: Progress) -> list[str]:
    """Make the wheel locks for these interpreters (none: every Python 3.10 to 3.13 on PATH); return what changed.

    Files uploaded after `until` (ISO 8601, UTC) are passed over.
    Raises InputError, SourceError, SolveError, MissingToolError.
    """
    environment = read_environment(root / "environment.yml")
    found = list(pythons) or pythons_on_path()
    if not found:
        raise MissingToolError("no Python 3.10 to 3.13 on PATH", "name one with --python")
    before = {path.name: path.read_bytes() for path in (root / "locks").glob("wheels-*.txt")}
    for python in found:
        make_wheel_lock(environment, python=python, out_dir=root / "locks", until=until, progress=progress)
    after = {path.name: path.read_bytes() for path in sorted((root / "locks").glob("wheels-*.txt"))}
    return [f"locks/{name}" for name, content in after.items() if before.get(name) != content]


def pythons_on_path() -> list[Path]:
    """Return the interpreters of Python 3.10 to 3.13 on PATH."""
    found = []
    for minor in range(10, 14):
        path = shutil.which(f"python3.{minor}")
        try:
            if path and probe(Path(path)):
                found.append(Path(path))
        except InputError:
            continue  # e.g. a shim of a version manager with no such version behind it
    return found
