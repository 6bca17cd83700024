"""Modulefiles in the real Lmod and the real Environment Modules, and load.sh in real shells."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cluster.admin import Site, environment
from cogvideo_sat_env.base.paths import current_platform

pytestmark = [
    pytest.mark.slow,  # real module systems
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
LMOD = Path("/usr/share/lmod/lmod/init/bash")
# what is the module system's, the shell's, or conda's own way back
NOT_COMPARED = ("_ModuleTable", "__LMOD", "__MODULES", "LMOD_", "MODULE", "_LMFILES_", "LOADEDMODULES", "_COGVIDEO_SAT_",
                "BASH_FUNC", "SHLVL", "PWD", "OLDPWD", "_", "PS1")  # fmt: skip
# variables of a user: some of them set before, some with characters that shells and module systems trip over
USERS = {
    "PATH": "/opt/my tools/bin:/usr/local/bin:/usr/bin:/bin", "CUDA_HOME": "/opt/cuda with 'quotes' $x \"y\" %41 \\n",
    "LIBRARY_PATH": "/opt/lib", "OF_THE_SITE": "a b", "CPATH": "", "HOME": "/nonexistent", "LANG": "C.UTF-8",
}  # fmt: skip


@pytest.fixture(scope="session")
def environment_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """modulecmd.tcl of Debian's environment-modules, which can't be installed beside Lmod: unpacked, not installed."""
    found = shutil.which("modulecmd.tcl") or next(map(str, Path("/usr/lib").glob("*/modulecmd.tcl")), None)
    if found:
        return Path(found)
    folder = tmp_path_factory.mktemp("environment-modules")
    if not shutil.which("apt-get") or not shutil.which("tclsh"):
        pytest.skip("Debian's package environment-modules can't be had here (apt-get and tclsh are needed)")
    got = subprocess.run(["apt-get", "download", "-q", "environment-modules"], cwd=folder, capture_output=True,
                         text=True, timeout=120, check=False)  # fmt: skip
    archives = list(folder.glob("*.deb"))
    if not archives:
        pytest.skip(f"Debian's package environment-modules can't be had here: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", archives[0], folder], check=True, timeout=60)
    return next(folder.glob("usr/lib/*/modulecmd.tcl"))


@pytest.fixture(params=["lmod", "environment-modules"])
def modules(request: pytest.FixtureRequest) -> str:
    """The lines of bash that make `module` known."""
    if request.param == "lmod":
        if not LMOD.exists():
            pytest.skip("no Lmod on this machine (Debian: apt install lmod)")
        return f". {LMOD} >/dev/null"
    command = request.getfixturevalue("environment_modules")
    return f'module() {{ eval "$(tclsh {shlex.quote(str(command))} bash "$@")"; }}'


def shell(script: str, env: Mapping[str, str], name: str = "bash") -> subprocess.CompletedProcess[bytes]:
    flags = {"bash": ["--norc"], "zsh": ["-f"]}.get(name, [])
    return subprocess.run([name, *flags, "-c", script], env=dict(env), capture_output=True, check=False, cwd="/")


def variables(run: subprocess.CompletedProcess[bytes], number: int = 0) -> dict[str, str]:
    """Return what the number-th `dump` of a script printed."""
    assert run.returncode == 0, run.stderr.decode()
    found = environment(run.stdout.split(b"\n--\n")[number])
    return {name: value for name, value in found.items() if not name.startswith(NOT_COMPARED)}


DUMP = "dump() { env -0; printf '\\n--\\n'; };"


@pytest.fixture
def users(tmp_path: Path) -> dict[str, str]:
    return {**USERS, "TMPDIR": str(tmp_path)}


def test_a_load_sets_what_activation_sets_and_an_unload_restores_every_byte(
    apps: Site, modules: str, users: dict[str, str]
) -> None:
    name = apps.deploy().name
    activated = variables(shell(f"{DUMP} . {apps.path}/current/bin/activate-cogvideo-sat; dump", users))
    prefix = str(apps.root.prefix(name))
    assert "OF_THE_SITE" not in activated
    assert activated["CUDA_HOME"] == activated["CONDA_PREFIX"] == prefix and activated["CPATH"].startswith(prefix)
    assert activated["LIBRARY_PATH"].endswith("/lib/stubs:/opt/lib") and activated["PATH"].startswith(f"{prefix}/bin:")
    for module in ("cogvideo-sat", f"cogvideo-sat/{name}"):
        run = shell(
            f"{modules}; {DUMP} module use {apps.path}/modules; dump; module load {module}; dump; module unload "
            "cogvideo-sat; dump",
            users,
        )  # fmt: skip
        before, loaded, after = (variables(run, number) for number in range(3))
        assert loaded == activated, run.stderr.decode()
        assert after == before, run.stderr.decode()


def test_what_is_loaded_is_unloaded_after_current_has_moved_and_the_release_is_gone(
    apps: Site, modules: str, users: dict[str, str]
) -> None:
    old = apps.deploy("data").name
    new = apps.deploy().name
    script = (
        f"{modules}; {DUMP} module use {apps.path}/modules; dump; module load cogvideo-sat; dump; "
        f"ln -sfn releases/{old} {apps.path}/current; mv {apps.path}/releases/{new} {apps.path}/gone; "
        "module unload cogvideo-sat; dump; module load cogvideo-sat; dump"
    )
    run = shell(script, users)
    before, loaded, after, again = (variables(run, number) for number in range(4))
    assert loaded["CONDA_PREFIX"].endswith(new) and after == before, run.stderr.decode()
    assert again["CONDA_PREFIX"].endswith(old)


def test_one_release_is_loaded_at_a_time_and_one_takes_the_others_place(
    apps: Site, modules: str, users: dict[str, str]
) -> None:
    old, new = apps.deploy("data").name, apps.deploy().name
    del users["OF_THE_SITE"]  # what one module unsets, the next one finds set again in Environment Modules
    if "LMOD" in modules.upper():
        del users["CPATH"]  # set and empty: Lmod can't set it so again in a swap
    start = f"{modules}; {DUMP} module use {apps.path}/modules; dump; module load cogvideo-sat/{old};"
    run = shell(f"{start} module swap cogvideo-sat/{old} cogvideo-sat/{new}; dump; module purge; dump", users)
    before, swapped, after = (variables(run, number) for number in range(3))
    assert old not in " ".join(swapped.values()), run.stderr.decode()
    fresh = variables(
        shell(f"{modules}; {DUMP} module use {apps.path}/modules; module load cogvideo-sat/{new}; dump", users)
    )
    assert swapped == fresh
    assert after == before
    both = variables(shell(f"{start} module load cogvideo-sat/{new}; dump", users), 1)
    assert (old in both["PATH"]) != (new in both["PATH"])  # Lmod puts it in the other's place, the other refuses


def test_it_says_what_it_is_before_it_is_loaded(apps: Site, modules: str, users: dict[str, str]) -> None:
    name = apps.deploy().name
    start = f"{modules}; module use {apps.path}/modules; exec 2>&1;"
    said = shell(f"{start} module avail cogvideo-sat; module whatis cogvideo-sat/{name}; module help cogvideo-sat/{name}; "
                 f"module show cogvideo-sat/{name}", users).stdout.decode()  # fmt: skip
    assert (
        f"cogvideo-sat/{name}" in said and "cogvideo-sat/current" in said and ".lua" not in said.split("Description")[0]
    )
    assert "CogVideoX with SAT, " in said and "5 packages" in said and "conflict" in said
    assert f"{apps.path}/releases/{name}/bin" in said and "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in said


def test_what_cannot_be_loaded_is_said_and_nothing_is_changed(
    apps: Site, modules: str, users: dict[str, str], tmp_path: Path
) -> None:
    name = apps.deploy().name
    start = f"{modules}; {DUMP} module use {apps.path}/modules;"
    run = shell(f"{start} dump; mv {apps.path}/releases/{name} {tmp_path}/x; module load cogvideo-sat/{name}; dump; "
                f"mv {tmp_path}/x {apps.path}/releases/{name}", users)  # fmt: skip
    assert variables(run, 0) == variables(run, 1) and "no such release" in run.stderr.decode()
    run = shell(f"{start} . {apps.path}/load.sh; dump; module load cogvideo-sat; dump", users)
    assert variables(run, 0) == variables(run, 1) and "leave it first: deactivate" in run.stderr.decode()
    (apps.root.prefix(name) / "bin" / "python").unlink()
    run = shell(f"{start} dump; module load cogvideo-sat; dump", users)
    assert variables(run, 0) == variables(run, 1) and "can't be activated" in run.stderr.decode()


def test_a_job_that_loads_it_leaves_a_lease_where_it_may(apps: Site, modules: str, users: dict[str, str]) -> None:
    name = apps.deploy().name
    run = shell(f"{modules}; module use {apps.path}/modules; module load cogvideo-sat", {**users, "SLURM_JOB_ID": "17"})
    assert run.returncode == 0 and [path.name for path in apps.root.leases.iterdir()] == [f"{name}@17"]


SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}"))
    for name in ("bash", "dash", "zsh")
]


@pytest.mark.parametrize("name", SHELLS)
def test_load_sh_loads_the_current_release_in_a_strict_shell_and_deactivate_ends_it(
    apps: Site, users: dict[str, str], name: str
) -> None:
    release = apps.deploy().name
    strict = "set -eu" if name == "dash" else "set -euo pipefail"
    run = shell(f"{DUMP} {strict}; dump; . {apps.path}/load.sh; dump; deactivate; dump", users, name)
    before, loaded, after = (variables(run, number) for number in range(3))
    assert loaded["CONDA_PREFIX"] == str(apps.root.prefix(release))
    assert after | {"OF_THE_SITE": "a b"} == before  # another package's script, which has nothing in deactivate.d
    assert f"{release} on " in run.stderr.decode() and "a login node" in run.stderr.decode()
    in_job = {**users, "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4"}
    run = shell(f"{strict}; . {apps.path}/load.sh; python -c 'import sys; print(sys.prefix)'", in_job, name)
    assert run.returncode == 0 and "compute node, job 17" in run.stderr.decode()
    assert ("no NVIDIA driver loaded" in run.stderr.decode()) != Path("/proc/driver/nvidia/version").exists()
    assert (apps.root.leases / f"{release}@17").exists()


@pytest.mark.parametrize("name", SHELLS)
def test_load_sh_refuses_to_be_executed(apps: Site, users: dict[str, str], name: str, tmp_path: Path) -> None:
    apps.deploy()
    for command in ([name, str(apps.path / "load.sh")], [name, "load.sh"]):
        run = subprocess.run(command, env=users, capture_output=True, text=True, check=False, cwd=apps.path)
        assert run.returncode == 1 and "must be sourced" in run.stderr and run.stdout == ""
    own = tmp_path / "load.sh"  # a script of the user's with the same name may source it
    own.write_text(f". {apps.path}/load.sh\necho $CONDA_PREFIX\n")
    run = subprocess.run([name, str(own)], env=users, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "releases" in run.stdout, run.stderr


def _gone(apps: Site) -> None:
    apps.root.current.unlink()


def _half(apps: Site) -> None:
    shutil.rmtree(apps.root.current / "conda-meta")


def _python(apps: Site) -> None:
    (apps.root.current / "bin" / "python").unlink()


def _script(apps: Site) -> None:
    (apps.root.current / "bin" / "activate-cogvideo-sat").unlink()


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [(_gone, "no release at"), (_half, "no release at"), (_python, "doesn't start"), (_script, "not whole")],
)
def test_load_sh_looks_before_it_touches_the_shell(
    apps: Site, users: dict[str, str], name: str, damage: Callable[[Site], None], said: str
) -> None:
    apps.deploy()
    damage(apps)
    script = f"{DUMP} set | grep -v '^_=' | sort >$TMPDIR/1; . {apps.path}/load.sh || echo refused >&2; set | sort >$TMPDIR/2"
    run = shell(script, users, name)
    assert said in run.stderr.decode() and "refused" in run.stderr.decode()
    first, second = ((Path(users["TMPDIR"]) / number).read_text() for number in "12")
    assert (
        "CONDA_PREFIX" not in second and "_cogvideo_sat" not in second and first.count("\n") <= second.count("\n") + 3
    )


def test_load_sh_takes_another_release_and_its_lints(apps: Site, users: dict[str, str]) -> None:
    old = apps.deploy("data").name
    apps.deploy()
    run = shell(f"SATENV_RELEASE={old}; . {apps.path}/load.sh && echo $CONDA_PREFIX", users)
    assert run.stdout.decode().strip() == str(apps.root.prefix(old))
    run = shell(f"SATENV_RELEASE=2020-01-01-nothing; . {apps.path}/load.sh", users)
    assert run.returncode == 1 and old in run.stderr.decode()
    if shutil.which("shellcheck"):
        lint = subprocess.run(["shellcheck", "-s", "sh", "-e", "SC1090,SC1091,SC3013,SC3028,SC3054,SC2015,SC2012,SC2010",
                               apps.path / "load.sh"], capture_output=True, text=True, check=False)  # fmt: skip
        assert lint.returncode == 0, lint.stdout
