"""What the doctor says to type fits the cause and how the environment was made; typed, it helps."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.base.yamlfile import load
from cogvideo_sat_env.doctor.checks.imports import TRAINING_TRANSITIVE, TRANSITIVE
from cogvideo_sat_env.doctor.remedies import fit

from ..conftest import PROJECT, satenv

REQUIREMENTS = [
    {"name": "torch", "conda": "pytorch", "module": "torch"},
    {"name": "torchvision", "conda": "torchvision", "module": "torchvision"},
    {"name": "numpy", "conda": "numpy", "module": "numpy"},
]
MODULES = [item["module"] for item in load(DATA / "requirements.yml", "the list of requirements")[0]["requirements"]]
REPAIR = "./scripts/satenv create --repair -p /envs/sat"


@pytest.mark.parametrize(
    ("remedy", "restore", "conda", "typed"),
    [
        ("mamba install 'torchvision<0.26' 'pytorch<2.11'", REPAIR, False, REPAIR),
        ("mamba install 'torchvision<0.26' 'pytorch<2.11'", REPAIR, True, REPAIR),
        ("mamba install 'torchvision<0.26' 'pytorch<2.11'", None, True, "mamba install 'torchvision<0.26' 'pytorch<2.11'"),
        ("mamba install 'torchvision<0.26' 'pytorch<2.11'", None, False, "pip install 'torchvision<0.26' 'torch<2.11'"),
        ("mamba install 'torchvision=0.25' 'pytorch=2.10'", None, False, "pip install 'torchvision==0.25.*' 'torch==2.10.*'"),
        ("pip install 'webdataset<0.2.88'", REPAIR, False, REPAIR),
        ("pip install 'webdataset<0.2.88'", None, False, "pip install 'webdataset<0.2.88'"),
        ("python -m pip uninstall -y sat; pip install --no-deps 'SwissArmyTransformer==0.4.12'", REPAIR, False,
         f"python -m pip uninstall -y sat; {REPAIR}"),
        ("unset LD_PRELOAD; mamba install 'numpy>=2'", None, False, "unset LD_PRELOAD; pip install 'numpy>=2'"),
        ("unset PYTHONPATH", REPAIR, False, "unset PYTHONPATH"),
        ("conda env config vars set -p '/envs/sat' A=1", REPAIR, True, REPAIR),
    ],
)  # fmt: skip
def test_a_remedy_is_what_the_environment_can_take(remedy, restore, conda, typed):
    assert fit(remedy, restore, conda, REQUIREMENTS) == typed


@pytest.mark.parametrize(
    ("receipt", "starts"),
    [
        ('{"source": "wheels"}', "./scripts/satenv create --repair -p "),
        ('{"source": "channel"}', "./scripts/satenv create --repair -p "),
        (None, "mamba install 'numpy>=2'"),
    ],
)
@pytest.mark.parametrize("check", ["identity.bounds"])
def test_a_wrong_version_is_put_right_by_what_made_the_environment(prefix, receipt, starts, check):
    prefix.file("conda-meta/history", "")
    prefix.distribution("numpy", "1.26.4")
    if receipt:
        prefix.file("etc/cogvideo-sat-env/receipt.json", receipt)
    result = prefix.check(check)
    assert result.status == "failed" and result.remedy.startswith(starts), result.remedy


@pytest.mark.parametrize(
    ("receipt", "starts"),
    [
        (None, "pip install --no-deps 'SwissArmyTransformer"),
        ('{"source": "wheels"}', "./scripts/satenv create --repair"),
    ],
)
def test_a_module_that_is_gone_comes_back_the_same_way(prefix, receipt, starts):
    prefix.file("conda-meta/history", "")
    if receipt:
        prefix.file("etc/cogvideo-sat-env/receipt.json", receipt)
    result = prefix.check("imports.together")
    assert result.status == "failed" and result.remedy.startswith(starts), result.remedy


def test_a_module_of_which_a_part_is_gone_is_repaired(prefix):
    """Nothing is known of the words, but what the lock has could be imported."""
    prefix.file("conda-meta/history", "")
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"source": "wheels"}')
    for name in {*MODULES, *TRANSITIVE, *TRAINING_TRANSITIVE} - {"packaging"}:
        prefix.module(f"{name}/__init__")
    prefix.module("kornia/__init__", "from einops import rearrange\n")
    result = prefix.check("imports.together")
    assert result.status == "failed" and "cannot import name 'rearrange'" in result.finding
    assert "create --repair" in result.remedy


# ---- typed, in an environment that is really broken


class Shell:
    """A user's shell in the project: the same variables for the doctor and for what is typed."""

    def __init__(self, prefix: Path, *options: str) -> None:
        self.prefix, self.options = prefix, options
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CONDA"))}

    def doctor(self, *checks: str) -> dict[str, dict]:
        only = [word for check in checks for word in ("--only", check)]
        run = subprocess.run(
            ["./scripts/satenv", "doctor", "-p", str(self.prefix), "--json", *self.options, *only], cwd=PROJECT, env=self.env,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return {item["id"]: item for item in json.loads(run.stdout)["results"]}

    def type(self, command: str) -> None:
        """Type a remedy; its variables stay set or unset."""
        script = f"{command}\nenv -0 >&3"
        read, write = os.pipe()
        run = subprocess.run(
            ["bash", "-e", "-c", script.replace(">&3", f">&{write}")], cwd=PROJECT, env=self.env, pass_fds=[write],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.close(write)
        with open(read, "rb") as variables:
            listed = variables.read().decode()
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        self.env = dict(item.split("=", 1) for item in listed.split("\0") if "=" in item)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of wheels that can be broken and repaired."""
    prefix = tmp_path_factory.mktemp("remedies") / "sat"
    run = satenv("create", "--source", "wheels", "-p", str(prefix), "--no-doctor", "-q")
    assert run.returncode == 0, run.stdout + run.stderr
    return prefix


def site(prefix: Path) -> Path:
    return next((prefix / "lib").glob("python3.*")) / "site-packages"


def lose_a_module(prefix: Path) -> None:
    for path in (site(prefix) / "einops").rglob("*.py"):
        path.unlink()


def lose_activation(prefix: Path) -> None:
    for path in (prefix / "etc" / "conda" / "activate.d").iterdir():
        path.unlink()
    (prefix / "conda-meta" / "state").unlink()


def change_a_file(prefix: Path) -> None:
    path = site(prefix) / "omegaconf" / "version.py"
    text = path.read_text()
    path.unlink()  # the cache has the same inode
    path.write_text(text + "# changed\n")


def another_version(prefix: Path) -> None:
    """As `pip install imageio-ffmpeg==0.4.9` leaves it."""
    subprocess.run(
        [prefix / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", "imageio-ffmpeg==0.4.9"], check=True,
        env={**os.environ, "PYTHONNOUSERSITE": "1"},
    )  # fmt: skip


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lose_a_module, "imports.together"), (lose_activation, "identity.activation"),
        (change_a_file, "identity.files"), (another_version, "identity.floors"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_what_the_doctor_says_is_typed_and_the_check_passes(broken, spoil, check, tmp_path):
    (tmp_path / "settings.json").write_text('{"identity.seconds": 2}')  # of hashing: code, which comes first
    shell = Shell(broken, "--config", str(tmp_path / "settings.json"))
    spoil(broken)
    result = shell.doctor(check)[check]
    assert result["status"] == "failed" and "mamba" not in result["remedy"], result
    shell.type(result["remedy"])
    assert shell.doctor(check)[check]["status"] == "passed", result["remedy"]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variable", "value", "check"),
    [
        ("PYTHONHOME", "/usr", "imports.together"), ("PYTHONPATH", "SHADOW", "imports.together"),
        ("CXX", "/opt/gcc/9/bin/g++", "toolchain.compiler"), ("GLOO_SOCKET_IFNAME", "ib7", "network.interfaces"),
        ("LD_PRELOAD", "/opt/site/lib64/libtrack_init.so", "identity.pollution"),
    ],
)  # fmt: skip
def test_a_variable_that_the_doctor_names_is_unset_and_the_check_passes(good_prefix, tmp_path, variable, value, check):
    shell = Shell(good_prefix)
    if value == "SHADOW":
        (tmp_path / "omegaconf.py").write_text("raise ImportError('of another program')")
        value = str(tmp_path)
    shell.env[variable] = value
    result = shell.doctor(check)[check]
    assert result["status"] != "passed" and result["remedy"] == f"unset {variable}", result
    shell.type(result["remedy"])
    assert shell.doctor(check)[check]["status"] == "passed"
