"""`python -m cogvideo_sat_env.doctor`, and what the package needs to be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

ONLY_STANDARD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("cogvideo_sat_env", "yaml", "_yaml"):
            raise ImportError(f"the doctor may not need {name}")
sys.meta_path.insert(0, Block())
import cogvideo_sat_env.doctor.__main__
from cogvideo_sat_env import doctor
assert "cogvideo_sat_env.cli" not in sys.modules
print(len(doctor.list_checks()))
"""


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    return subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.doctor", *arguments], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip


def test_the_package_needs_only_the_standard_library_and_yaml():
    done = subprocess.run(
        [sys.executable, "-c", ONLY_STANDARD], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


def test_the_list_names_every_check():
    done = command("--list")
    assert done.returncode == 0 and "training.zero2" in done.stdout and "quick" in done.stdout
    assert "data.webdataset" in {item["id"] for item in json.loads(command("--list", "--json").stdout)}


def test_json_goes_to_standard_output_with_the_exit_code_of_the_result(prefix):
    done = command("-p", str(prefix.root), "--only", "identity.distribution", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["ok"] is False and report["prefix"] == str(prefix.root)
    assert report["results"][0]["finding"] == "SwissArmyTransformer is not installed"


def test_text_is_the_default(prefix):
    done = command("-p", str(prefix.root), "--only", "toolchain.extensions-dir")
    assert done.returncode == 0 and "1 passed, 0 failed" in done.stdout and "\x1b" not in done.stdout


def test_the_active_environment_is_the_default(prefix):
    done = command("--only", "toolchain.extensions-dir", CONDA_PREFIX=str(prefix.root))
    assert f"Environment {prefix.root}, level full" in done.stdout.replace("\n", " ")


def test_wrong_usage_ends_with_2_and_a_wrong_prefix_with_6(tmp_path):
    assert command("--only", "video.decrod").returncode == 2
    done = command("-p", str(tmp_path))
    assert done.returncode == 6 and "expected the Python of an environment" in done.stderr
    assert "satenv create" in done.stderr and "Traceback" not in done.stderr
