"""What everybody runs first: scripts/satenv makes its tools once, whatever the user's machine and settings are."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import airgap

pytestmark = pytest.mark.slow

PIN = "tinywheel==1.0 \\\n    --hash=sha256:{}\n"
# the program under the launcher here: shows what it was started with, and that its tool is there
MAIN = "import sys\ndef main():\n    import tinywheel\n    print(tinywheel.VALUE, sys.argv[1:])\n"


@dataclass
class Checkout:
    """A checkout with the real launcher and bootstrap, whose only tool is one small wheel in a folder."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def tools(self) -> Path:
        return self.home / ".cache" / "cogvideo-sat-env" / "tool"

    @property
    def venv(self) -> Path:
        (found,) = (path for path in self.tools.iterdir() if path.is_dir())
        return found

    def command(self, *arguments: str) -> list[str]:
        return ["sh", str(self.root / "scripts" / "satenv"), *arguments]

    def environment(self, **variables: str) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"], "HOME": str(self.home), "SATENV_PYTHON": sys.executable}
        return {**found, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.root / "wheels"), **variables}

    def run(self, *arguments: str, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the launcher; `before` is shell code in a mount namespace of its own."""
        command = self.command(*arguments)
        if before:
            command = ["unshare", "-m", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.home, env=self.environment(**variables)
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "project"
    wheel = airgap.make_wheel(root / "wheels")
    package = root / "src" / "cogvideo_sat_env"
    package.mkdir(parents=True)
    (package / "base").symlink_to(airgap.PROJECT / "src" / "cogvideo_sat_env" / "base")
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(MAIN)
    (root / "scripts").mkdir()
    for name in ("satenv", "bootstrap.py"):
        shutil.copy(airgap.PROJECT / "scripts" / name, root / "scripts")
    for name in ("tool", "maintainer"):
        text = PIN.format(hashlib.sha256(wheel.read_bytes()).hexdigest())
        (root / "scripts" / f"{name}-requirements.txt").write_text(text)
    (root / "home").mkdir()
    return Checkout(root)


@pytest.fixture
def own_mounts() -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("may not make a mount namespace")


def hostile_settings(root: Path) -> dict[str, str]:
    """Settings that lead pip's work elsewhere or change how a Python starts."""
    trap = root / "trap"
    trap.mkdir()
    for name in ("subprocess", "sitecustomize", "click", "cogvideo_sat_env"):
        (trap / f"{name}.py").write_text("raise SystemExit('the user\\'s own modules were loaded')\n")
    (root / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {root / 'wheels'}\nconstraint = {root / 'gone.txt'}\n"
        f"[install]\nuser = true\ntarget = {root / 'elsewhere'}\nprefix = {root / 'elsewhere'}\n"
    )
    return {
        "PIP_CONFIG_FILE": str(root / "pip.conf"), "PIP_TARGET": str(root / "elsewhere"), "PIP_DRY_RUN": "1",
        "PIP_PREFIX": str(root / "elsewhere"), "PIP_ROOT": str(root / "elsewhere"), "PIP_USER": "1",
        "PIP_REQUIRE_VIRTUALENV": "1", "PIP_REQUIREMENT": str(root / "gone.txt"), "PIP_PYTHON": "/nowhere/python",
        "PIP_NO_BINARY": ":all:", "PIP_QUIET": "3", "PIP_LOG": "/proc/1/none", "PIP_PLATFORM": "win_amd64",
        "PYTHONHOME": "/opt/python/3.8", "PYTHONPATH": str(trap), "PYTHONSTARTUP": str(trap / "click.py"),
        "PYTHONNOUSERSITE": "", "PYTHONSAFEPATH": "", "VIRTUAL_ENV": "/nowhere", "CDPATH": "/", "IFS": "/",
    }  # fmt: skip


@pytest.mark.fault("tool-settings", "environment", "the tools are the pinned ones, wherever PIP_* and PYTHON* lead")
def test_settings_of_pip_and_python_lead_nowhere_else(checkout: Checkout) -> None:
    hostile = hostile_settings(checkout.root)
    run = checkout.run("create", "a b", **hostile)
    assert (run.returncode, run.stdout) == (0, "42 ['create', 'a b']\n"), run.stderr
    assert run.stderr.count("preparing its tools") == 1
    assert not (checkout.root / "elsewhere").exists()
    assert not {".local", "~", "lib", "bin"} & {path.name for path in checkout.home.iterdir()}
    again = checkout.run("x", **hostile)
    assert (again.returncode, again.stdout, again.stderr) == (0, "42 ['x']\n", "")
    # its Python is removed or upgraded away: made again, and nothing is left beside
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to("/gone")
    run = checkout.run("x", **hostile)
    assert (run.returncode, run.stdout) == (0, "42 ['x']\n") and "preparing" in run.stderr, run.stderr
    assert {path.name for path in checkout.tools.iterdir()} == {checkout.venv.name, f"{checkout.venv.name}.lock"}
    assert f"{checkout.tools}/." not in (checkout.venv / "bin" / "activate").read_text()


@pytest.mark.e2e
@pytest.mark.fault("tool-killed", "environment", "the next run makes the tools; two at once make them one time")
def test_killed_and_two_at_once(checkout: Checkout) -> None:
    first = subprocess.Popen(checkout.command(), env=checkout.environment(), start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    until(lambda: checkout.tools.is_dir() and any(checkout.tools.glob(".*/*/pyvenv.cfg")))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    both = [
        subprocess.Popen(checkout.command(n), env=checkout.environment(), text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
        for n in "12"
    ]  # fmt: skip
    said = [run.communicate(timeout=60) for run in both]
    assert [run.returncode for run in both] == [0, 0] and [out for out, _ in said] == ["42 ['1']\n", "42 ['2']\n"]
    assert sum(error.count("preparing its tools") for _, error in said) == 1
    assert {path.name for path in checkout.tools.iterdir()} == {checkout.venv.name, f"{checkout.venv.name}.lock"}


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("http_proxy", "http://127.0.0.1:9", "through the proxy that http_proxy names"),
        ("ALL_PROXY", "socks5h://jane:EXAMPLEPW@127.0.0.1:9", "ALL_PROXY"),
    ],
)
def test_a_proxy_that_leads_nowhere_is_named_with_its_variable(
    checkout: Checkout, variable: str, value: str, words: str
) -> None:
    index = {
        "PIP_NO_INDEX": "",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://index.example.org/wheels/",
        "PIP_RETRIES": "0",
    }
    run = checkout.run(**index, **{variable: value})
    assert run.returncode == 5 and words in run.stderr and "EXAMPLEPW" not in run.stderr, run.stderr
    assert [path.name for path in checkout.tools.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.fault("tool-hash", "error", "names the tool, the expected and the found SHA-256")
def test_a_wrong_hash_is_named_and_nothing_is_left(checkout: Checkout) -> None:
    right = hashlib.sha256((checkout.root / "wheels" / airgap.WHEEL).read_bytes()).hexdigest()
    (checkout.root / "scripts" / "tool-requirements.txt").write_text(PIN.format("0" * 64))
    run = checkout.run()
    assert run.returncode == 4, run.stderr
    assert f"tinywheel==1.0: expected SHA-256 {'0' * 64}, the package index gave {right}" in run.stderr
    assert [path.name for path in checkout.tools.iterdir() if path.suffix != ".lock"] == []


def test_a_python_without_venv_is_named(checkout: Checkout, own_mounts: None) -> None:
    library = Path(os.__file__).parent
    run = checkout.run(before=f"mount --bind {checkout.home} {library / 'ensurepip'}")
    assert run.returncode == 8 and "can't make a venv" in run.stderr and "python3-venv" in run.stderr, run.stderr
    assert [path.name for path in checkout.tools.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.fault("tool-disk-full", "error", "says how much is free where, and SATENV_CACHE")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=1m", "only 1.0 MB free"),
        ("size=9g,nr_inodes=200", "inodes are free there"),
        ("size=9g,noexec", "mounted noexec"),
        ("size=9g,ro", "Read-only file system"),
    ],
)
def test_a_cache_that_cannot_hold_the_tools_is_named_first(
    checkout: Checkout, own_mounts: None, options: str, words: str
) -> None:
    place = checkout.root / "small"
    place.mkdir()
    run = checkout.run(before=f"mount -t tmpfs -o {options} tmpfs {place}", SATENV_CACHE=str(place / "cache"))
    assert run.returncode == 6 and words in run.stderr and str(place) in run.stderr, run.stderr
    assert "SATENV_CACHE" in run.stderr and len(run.stderr.splitlines()) <= 3


@pytest.mark.e2e
def test_a_disk_that_fills_up_under_pip_is_the_cause_that_is_named(checkout: Checkout, own_mounts: None) -> None:
    place = checkout.root / "small"
    place.mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from cogvideo_sat_env.base import tool_venv; tool_venv.NEEDED = 0; "
        "tool_venv.make_tool_venv(Path(sys.argv[2]) / 'tool' / '1', [Path(sys.argv[3])])"
    )
    pins = checkout.root / "scripts" / "tool-requirements.txt"
    run = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f'mount -t tmpfs -o size=9m tmpfs {place}; "$@"; ls -A {place}/tool', "sh",
         sys.executable, "-I", "-c", code, str(checkout.root / "src"), str(place), str(pins)],
        capture_output=True, text=True, check=False, env=checkout.environment(),
    )  # fmt: skip
    assert "PrefixError" in run.stderr and f"{place}/tool: no space left on the device" in run.stderr, run.stderr


@pytest.mark.e2e
def test_a_user_without_a_home_is_asked_for_a_cache(checkout: Checkout, own_mounts: None) -> None:
    (checkout.root / "nsswitch").write_text("passwd: files\n")  # nothing makes a user up
    nobody = f"mount --bind /dev/null /etc/passwd; mount --bind {checkout.root}/nsswitch /etc/nsswitch.conf; unset HOME"
    run = checkout.run(before=nobody)
    assert run.returncode == 8 and "this user has no home directory" in run.stderr and "SATENV_CACHE" in run.stderr
    run = checkout.run("x", before=nobody, SATENV_CACHE="cache")
    assert (run.returncode, run.stdout) == (0, "42 ['x']\n"), run.stderr
    assert [path.name for path in checkout.home.iterdir()] == ["cache"], "nothing is called ~"


def test_a_python_that_is_none_is_named(checkout: Checkout) -> None:
    run = checkout.run(SATENV_PYTHON="/nowhere/python3")
    assert run.returncode == 8 and "SATENV_PYTHON=/nowhere/python3: is no Python >= 3.10" in run.stderr


@pytest.mark.e2e
def test_only_what_maintainers_do_needs_their_tools(checkout: Checkout) -> None:
    pins = checkout.root / "scripts" / "maintainer-requirements.txt"
    good = pins.read_text()
    assert checkout.run("build").stdout == "42 ['build']\n"
    users = checkout.venv
    pins.write_text(PIN.format("0" * 64).replace("tinywheel", "absentwheel"))
    run = checkout.run("lock", "--only", "x")
    assert run.returncode == 5 and "absentwheel==1.0" in run.stderr, run.stderr
    pins.write_text(f"{good}# of theirs\n")
    (checkout.root / "src" / "cogvideo_sat_env" / "__main__.py").write_text(
        "import sys\ndef main():\n    print(sys.prefix)\n"
    )
    made = set()
    for command in ("lock --only x", "check", "freshen", "report --html page.html", "sbom --format=spdx x"):
        made.add(checkout.run(*command.split()).stdout)
    assert len(made) == 1 and f"{users}\n" not in made and f"{checkout.tools}/" in made.pop()
    for command in ("build", "sbom --format cyclonedx", "report"):
        assert checkout.run(*command.split()).stdout == f"{users}\n"
