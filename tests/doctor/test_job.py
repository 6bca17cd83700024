"""The doctor sees what a job of this user would see: variables, limits, places, a driver that is stuck."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.base.yamlfile import load
from cogvideo_sat_env.doctor.checks import network
from cogvideo_sat_env.doctor.checks.imports import TRAINING_TRANSITIVE, TRANSITIVE
from cogvideo_sat_env.doctor.children import run_child
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts, NvidiaSmi
from cogvideo_sat_env.doctor.runner import Conditions, Doctor

from .conftest import FakePrefix, Machine

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
MODULES = [item["module"] for item in load(DATA / "requirements.yml", "the list of requirements")[0]["requirements"]]


@pytest.fixture
def whole(prefix: FakePrefix) -> FakePrefix:
    """A prefix with an empty module for all that is imported together."""
    for name in {*MODULES, *TRANSITIVE, *TRAINING_TRANSITIVE} - {"packaging"}:
        prefix.module(f"{name}/__init__")
    return prefix


# ---- variables


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONHOME", "/opt/python/3.8"),
        ("PYTHONUTF8", "perhaps"),
        ("PYTHONMALLOC", "jemalloc"),
        ("PYTHONHASHSEED", "x"),
    ],
)
def test_a_variable_with_which_python_does_not_start_is_named_by_what_needs_it(whole, variable, value):
    """Of a module of the site, say; the light checks go on without it, to say what else is wrong."""
    result = whole.check("identity.python", **{variable: value})
    assert result.status == "failed" and f"{variable}={value}" in result.finding
    assert result.remedy == f"unset {variable}"
    result = whole.check("imports.together", **{variable: value})
    assert result.status == "failed" and result.remedy == f"unset {variable}", result
    assert whole.check("identity.pollution", **{variable: value}).status in ("passed", "warning")
    assert whole.check("imports.together").status == whole.check("identity.python").status == "passed"


def test_a_python_home_of_another_python_of_the_same_version_is_named(whole, tmp_path):
    """It starts, and finds the packages of that other one: none of ours."""
    whole.program(
        "python",
        f'site="{whole.site}"\n[ -z "${{PYTHONHOME:-}}" ] || {{ site=/nothing; unset PYTHONHOME; }}\n'
        f'PYTHONPATH="$site" exec "{sys.executable}" -S "$@"\n',
    )
    result = whole.check("imports.together", PYTHONHOME=str(tmp_path))
    assert result.status == "failed" and result.remedy == "unset PYTHONHOME", result
    assert whole.check("identity.python", PYTHONHOME=str(tmp_path)).status == "failed"


@pytest.mark.parametrize(
    ("variable", "value"), [("PYTHONPATH", "SHADOW"), ("PYTHONWARNINGS", "error"), ("PYTHONOPTIMIZE", "2")]
)
def test_a_variable_that_spoils_an_import_is_found_by_trying_without(whole, tmp_path, variable, value):
    """What can't be imported as the job would is FAILED, whatever the environment has."""
    whole.module("kornia/__init__", "import warnings\nwarnings.warn('old')\n")
    whole.module("wandb/__init__", "'''Documentation.'''\n__doc__.strip()\n")
    whole.program("python", f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{whole.site}" exec "{sys.executable}" -S "$@"\n')
    if value == "SHADOW":
        (tmp_path / "shadow").mkdir()
        (tmp_path / "shadow" / "yaml.py").write_text("raise ImportError('of another program')\n")
        value = str(tmp_path / "shadow")
    assert whole.check("imports.together").status == "passed"
    result = whole.check("imports.together", LD_LIBRARY_PATH="/no/such/folder", **{variable: value})
    assert result.status == "failed" and result.remedy == f"unset {variable}", result
    assert f"the cause is {variable}={value}" in result.finding


def test_a_module_that_is_gone_is_not_blamed_on_the_users_variables(whole):
    shutil.rmtree(whole.site / "einops")
    result = whole.check("imports.together", PYTHONPATH="/opt/site-modules", LD_LIBRARY_PATH="/opt/lib")
    assert result.status == "failed" and "einops" in result.finding and "unset" not in result.remedy


def test_python_safe_path_changes_nothing_here_and_is_named(whole):
    assert whole.check("imports.together", PYTHONSAFEPATH="1").status == "passed"
    result = whole.check("identity.pollution", PYTHONSAFEPATH="1")
    assert result.status == "warning" and result.remedy == "unset PYTHONSAFEPATH"


@pytest.mark.slow
@pytest.mark.parametrize("noise", [{"LD_PRELOAD": "/opt/site/lib64/libtrack_init.so"}, {"LC_ALL": "xx_YY.UTF-8"}])
def test_noise_of_the_loader_or_of_the_locale_is_no_failure(whole, noise):
    whole.file("etc/conda/activate.d/a.sh", "export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1\nid -u >/dev/null\n")
    for check in ("imports.together", "identity.activation", "identity.python"):
        result = whole.check(check, **noise)
        assert result.status == "passed", result
    result = whole.check("identity.pollution", **noise)
    if "LD_PRELOAD" in noise:
        assert (result.status, result.remedy) == ("warning", "unset LD_PRELOAD")
    else:
        assert result.status == "passed" and "harmless" in result.finding


NAMELESS = ["unshare", "--user", "--map-user=54321"]


def test_a_user_without_a_name_is_named_before_torch_stumbles(whole):
    """A container's bare number: torch asks for the user's name on the way to its compiler's cache."""
    if run_child([*NAMELESS, "true"], 10.0).code != 0:
        pytest.skip("this machine has no user namespaces")
    whole.program("python", f'PYTHONPATH="{whole.site}" exec {" ".join(NAMELESS)} "{sys.executable}" -S "$@"\n')
    whole.module("sat/__init__", "import getpass\ngetpass.getuser()\n")
    result = whole.check("identity.python")
    assert result.status == "failed" and "user 54321 has no name" in result.finding and "export USER=" in result.remedy
    result = whole.check("imports.together")
    assert result.status == "failed" and "export USER=" in result.remedy, result
    typed = run_child(["sh", "-c", f"{result.remedy}; printenv USER"], 10.0).stdout.strip()
    for check in ("identity.python", "imports.together"):
        assert whole.check(check, USER=typed).status == "passed"


def test_activation_scripts_that_are_gone_fail_with_what_brings_them_back(prefix):
    scripts = ("bin/activate-cogvideo-sat", "etc/conda/activate.d/cogvideo-sat-env.sh")
    files = ", ".join(f'"{name}": {{}}' for name in scripts)
    prefix.file("etc/cogvideo-sat-env/receipt.json", f'{{"source": "wheels", "files": {{{files}}}}}')
    prefix.file("conda-meta/state", '{"env_vars": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}}')
    for name in scripts:
        result = prefix.check("identity.activation")
        assert result.status == "failed" and f"{name} is missing" in result.finding.replace(", ", " is missing, ")
        assert "create --repair" in result.remedy and "conda env" not in result.remedy
        prefix.file(name, "")
    assert prefix.check("identity.activation").status == "passed"


def test_an_environment_that_was_moved_or_copied_is_named(prefix, tmp_path):
    prefix.file("conda-meta/state", '{"env_vars": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}}')
    for made, status in ((tmp_path / "gone", "failed"), (tmp_path, "failed"), (prefix.root, "passed")):
        prefix.file("etc/cogvideo-sat-env/receipt.json", f'{{"source": "wheels", "prefix": "{made}"}}')
        result = prefix.check("identity.activation")
        assert result.status == status, result
        if status == "failed":
            assert f"made at {made} and moved" in result.finding and "create --repair -p" in result.remedy


# ---- limits


@pytest.mark.parametrize(
    ("letter", "name", "value", "status"),
    [
        ("v", resource.RLIMIT_AS, 4_000_000 * 1024, "failed"),
        ("v", resource.RLIMIT_AS, 32 * 2**30, "warning"),
        ("f", resource.RLIMIT_FSIZE, 10 * 2**20, "failed"),
        ("f", resource.RLIMIT_FSIZE, 2**30, "warning"),
        ("n", resource.RLIMIT_NOFILE, 100, "failed"),
        ("n", resource.RLIMIT_NOFILE, 300, "warning"),
        ("t", resource.RLIMIT_CPU, 3600, "warning"),
    ],
)
def test_a_limit_of_the_shell_that_is_too_low_is_named_with_what_raises_it(prefix, letter, name, value, status):
    soft, hard = resource.getrlimit(name)
    resource.setrlimit(name, (value, hard))
    try:
        result = prefix.check("hardware.limits")
    finally:
        resource.setrlimit(name, (soft, hard))
    assert result.status == status and f"ulimit -{letter} is" in result.finding, result
    assert f"ulimit -S -{letter} " in result.remedy


def test_with_too_little_address_space_nothing_is_tried_that_would_hang(whole):
    """The loader's words for it are "failed to map segment", or none at all."""
    whole.module("sat/__init__", "import time; time.sleep(1000)")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4_000_000 * 1024, hard))
    try:
        result = whole.check("imports.together")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert result.status == "failed" and "ulimit -v is 4,000,000" in result.finding
    assert result.remedy == "ulimit -S -v unlimited"


def test_usual_limits_pass(prefix):
    result = prefix.check("hardware.limits")
    assert result.status == "passed", result.finding


# ---- places


@pytest.fixture
def noexec() -> Iterator[Path]:
    """A file system from which nothing can be run."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,noexec", "tmpfs", folder], check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("this user can't mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def test_a_place_for_extensions_that_is_mounted_noexec_fails_and_the_remedy_helps(prefix, noexec):
    """It can be written, and the loader refuses what is compiled there: failed to map segment."""
    result = prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=str(noexec / "ext"))
    assert result.status == "failed" and "noexec" in result.finding, result
    assert list((noexec / "ext").iterdir()) == []
    typed = run_child(["sh", "-c", f"{result.remedy}; printenv TORCH_EXTENSIONS_DIR"], 10.0).stdout.strip()
    assert prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=typed).status == "passed"


@pytest.mark.parametrize(("gpus", "status"), [((), "warning"), ((Gpu(0, "H100", 81559, "9.0"),), "failed")])
def test_a_cache_of_tritons_that_is_mounted_noexec_is_named(prefix, noexec, gpus, status):
    machine = Machine(GpuFacts("580.65.06", gpus))
    result = prefix.check("storage.space", machine=machine, TRITON_CACHE_DIR=str(noexec / "triton"))
    assert result.status == status and "TRITON_CACHE_DIR" in result.finding and "noexec" in result.finding


@pytest.mark.parametrize(
    ("variable", "offline", "status"),
    [("HF_HOME", "", "warning"), ("HF_HOME", "1", "passed"), ("TRITON_CACHE_DIR", "", "warning")],
)
def test_a_cache_that_cannot_be_written_is_named(prefix, noexec, variable, offline, status):
    subprocess.run(["mount", "-o", "remount,ro", noexec], check=True)
    result = prefix.check("storage.space", **{variable: str(noexec / "cache"), "HF_HUB_OFFLINE": offline})
    assert result.status == status and f"{variable} ({noexec}/cache) can't be written: Read-only" in result.finding
    if status != "passed":
        assert result.remedy.startswith(f"export {variable}=")


# ---- interfaces


@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_an_interface_that_is_not_there_fails_before_training_waits_for_it(prefix, variable):
    result = prefix.check("network.interfaces", **{variable: "ib7"})
    assert result.status == "failed" and f"{variable}=ib7 names no interface" in result.finding
    assert result.remedy == f"unset {variable}"
    assert prefix.check("network.interfaces", **{variable: "lo"}).status == "passed"


@pytest.mark.parametrize(
    ("value", "exactly", "good"),
    [
        ("eth0", True, True), ("eth", True, False), ("eth0,ib0", True, True), ("eth0,ib7", True, False),
        ("eth", False, True), ("=eth", False, False), ("=eth0", False, True), ("ib,eth", False, True),
        ("^lo,docker", False, True), ("^lo,eth,ib", False, False), ("^=lo", False, True), ("enp", False, False),
    ],
)  # fmt: skip
def test_interfaces_are_named_as_gloo_and_nccl_read_them(value, exactly, good):
    assert network.fits(value, ["lo", "eth0", "ib0"], exactly) is good


# ---- the GPU driver

HANGS = {
    "when it is asked": "#include <unistd.h>\nint cuInit(unsigned flags) { for (;;) sleep(1000); }\n",
    "when it is loaded": "#include <unistd.h>\n__attribute__((constructor)) void start(void) { for (;;) sleep(1000); }\n",
}


def driver(folder: Path, text: str, name: str = "libcuda.so.1") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "driver.c").write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, folder / "driver.c"], check=True)
    return folder


@needs_compiler
@pytest.mark.parametrize("how", sorted(HANGS))
def test_a_driver_that_is_stuck_costs_seconds_and_is_named(whole, tmp_path, how):
    """Whoever asks it hangs: torch when DeepSpeed is imported, for as long as the check may take."""
    folder = driver(tmp_path / "driver", HANGS[how])
    whole.module("sat/__init__", "import time; time.sleep(1000)")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LD_LIBRARY_PATH": str(folder)}
    doctor = Doctor(whole.root, Conditions(environ=environ, hardware=NvidiaSmi(environ=environ, seconds=0.5)))
    start = time.monotonic()
    together, gpu = doctor.run("quick", only=["imports.together", "hardware.gpu"]).results
    assert time.monotonic() - start < 8.0
    assert together.status == gpu.status == "failed"
    assert "the GPU driver is stuck: libcuda.so.1 doesn't answer" in gpu.finding and "libcuda.so.1" in together.finding
    assert "reset the GPU driver" in gpu.remedy


@needs_compiler
def test_a_stuck_nvml_is_named_too(tmp_path):
    text = HANGS["when it is asked"].replace("cuInit(unsigned flags)", "nvmlInit_v2(void)")
    folder = driver(tmp_path / "driver", text, "libnvidia-ml.so.1")
    facts = NvidiaSmi(environ={"LD_LIBRARY_PATH": str(folder), "PATH": "/bin"}, seconds=0.5).gpu_facts()
    assert "libnvidia-ml.so.1 doesn't answer" in facts.stuck


def test_an_nvidia_smi_that_hangs_is_a_problem_within_its_limit(prefix):
    program = prefix.program("nvidia-smi", "sleep 1000 & wait\n")
    start = time.monotonic()
    facts = NvidiaSmi(str(program), environ={"PATH": "/usr/bin:/bin"}, seconds=0.5).gpu_facts()
    assert time.monotonic() - start < 5.0 and "nvidia-smi doesn't answer within" in facts.problem


ONE_GPU = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "A100", size); return 0; }
int cuDeviceTotalMem_v2(unsigned long *size, int device) { *size = 40960ul << 20; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 0; return 0; }
"""


@needs_compiler
def test_a_gpu_is_seen_where_nvidia_smi_is_not_there(tmp_path):
    """As in containers that get the driver's libraries without its programs."""
    environ = {"LD_LIBRARY_PATH": str(driver(tmp_path / "driver", ONE_GPU)), "PATH": "/none"}
    facts = NvidiaSmi(environ=environ, version_file=tmp_path / "none").gpu_facts()
    assert facts == GpuFacts(None, (Gpu(0, "A100", 40960, "8.0"),))


@pytest.mark.slow
def test_a_child_that_cannot_be_killed_is_not_waited_for():
    """The pipe is held open by a process of another session, as one that waits inside a driver would hold it."""
    start = time.monotonic()
    done = run_child(["sh", "-c", "setsid sleep 4 & wait"], 0.3)
    assert done.code is None and time.monotonic() - start < 3.0
    assert "doesn't answer within" in done.problem
