"""Import checks, in prefixes whose modules are written for the test: how they fail is real, what they are is not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.doctor.checks.imports import TRAINING_TRANSITIVE, TRANSITIVE

MODULES = [item["module"] for item in yaml.safe_load((DATA / "requirements.yml").read_text())["requirements"]]


@pytest.fixture
def closure(prefix):
    """A prefix with an empty module for every one of the closure."""
    for name in {*MODULES, *TRANSITIVE, *TRAINING_TRANSITIVE} - {"sat", "packaging"}:
        prefix.module(name)
    prefix.module("sat/__init__")
    return prefix


def test_every_module_of_the_closure_is_imported_alone_and_together(closure):
    count = len(MODULES) + len(TRANSITIVE) + len(TRAINING_TRANSITIVE)
    assert closure.check("imports.alone").finding.startswith(f"{count} modules import, each in its own process")
    assert closure.check("imports.together").finding == f"{count} modules import in one process"


def test_a_module_that_imports_only_after_another_is_named(closure):
    """In one process the failure is hidden: torch was there already."""
    closure.module("torch", "import sys\nsys.satenv_torch = True\n")
    closure.module("tensorboardX", "import sys\nassert sys.satenv_torch\n")
    assert closure.check("imports.together").status == "passed"
    result = closure.check("imports.alone")
    assert result.status == "failed" and "1 of " in result.finding
    assert result.details["problems"] == {
        "tensorboardX": "AttributeError: module 'sys' has no attribute 'satenv_torch'"
    }


def test_each_way_to_fail_is_named(closure):
    closure.module("scipy", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    closure.module("pandas", "print('ImportError: /lib/libstdc++.so.6: undefined symbol: _ZSt')\n")  # and goes on
    closure.module("regex", "raise SystemExit(3)\n")
    (closure.site / "wandb.py").unlink()
    result = closure.check("imports.alone")
    problems = result.details["problems"]
    assert result.status == "failed" and set(problems) == {"scipy", "pandas", "regex", "wandb"}
    assert problems["scipy"] == "crashed with signal 11"
    assert problems["pandas"].startswith(
        "imports, but the loader says: ImportError: /lib/libstdc++.so.6: undefined symbol"
    )
    assert problems["wandb"] == "ModuleNotFoundError: No module named 'wandb'" and "wandb" in result.remedy


def test_together_a_complaint_of_the_loader_is_a_failure_too(closure):
    closure.module("pandas", "print('libfoo.so.1: cannot open shared object file: No such file or directory')\n")
    result = closure.check("imports.together")
    assert result.status == "failed" and "but the loader says: libfoo.so.1" in result.finding


def test_a_crash_in_one_process_is_named(closure):
    closure.module("kornia", "import os\nos.abort()\n")
    result = closure.check("imports.together")
    assert result.status == "failed" and "SIGABRT (aborted)" in result.finding


TORCH = """
class Tensor:
    def matmul(self, other): return self
    def sum(self): return 262144.0
def ones(*shape): return Tensor()
"""


@pytest.mark.parametrize(("first", "second"), [("decord", "torch"), ("torch", "decord")])
def test_a_crash_that_depends_on_the_order_is_named(closure, first, second):
    closure.module("torch", f"import sys\n{TORCH}")
    closure.module("decord", "import sys\ndef cpu(index): return index\n")
    assert closure.check("imports.order").status == "passed"
    path = closure.site / f"{second}.py"
    path.write_text(
        f"{path.read_text()}\nimport os, signal\nif {first!r} in sys.modules: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    result = closure.check("imports.order")
    assert result.status == "failed" and result.details["problems"] == [f"{first}, {second}: crashed with signal 11"]


NAMES = yaml.safe_load((DATA / "upstream-names.yml").read_text())


def test_each_name_that_upstream_uses_is_looked_up_and_its_error_reported(prefix):
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"data_only": true}')
    tree: dict = {}
    for module, names in NAMES["data"].items():
        for name in names or [""]:
            place = tree
            for part in f"{module}.{name}".strip(".").split("."):
                place = place.setdefault(part, {})

    def write(folder: str, names: dict) -> None:
        prefix.module(f"{folder}/__init__", "".join(f"{name} = 0\n" for name, inner in names.items() if not inner))
        for name, inner in names.items():
            if inner:
                write(f"{folder}/{name}", inner)

    for name, inner in tree.items():
        write(name, inner)
    result = prefix.check("imports.upstream-names")
    assert result.status == "passed" and f"(commit {NAMES['commit'][:7]})" in result.finding, result
    prefix.module("torch/utils/data/__init__", "def __getattr__(name): raise RuntimeError('no libcuda')\n")
    prefix.module("decord/__init__", "VideoReader = 0\n")
    prefix.module("decord/bridge/__init__", "")
    result = prefix.check("imports.upstream-names")
    assert result.status == "failed" and result.details["problems"] == {
        "decord.bridge.set_bridge": "no such name", "torch.utils.data.Dataset": "RuntimeError: no libcuda",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "module", "name"),
    [
        ("data", "decord", "bridge.set_bridge"), ("data", "torchvision.io.video", "_align_audio_frames"),
        ("training", "torch.backends.cuda", "sdp_kernel"), ("training", "torch.backends.cuda", "SDPBackend"),
        ("training", "einops", "rearrange"), ("training", "einops", "repeat"),
        ("training", "braceexpand", "braceexpand"), ("training", "webdataset", "ResampledShards"),
        ("training", "sat.model.finetune.lora2", "LoraMixin"), ("training", "wandb", "log"),
    ],
)  # fmt: skip
def test_the_table_has_what_upstream_takes_without_asking_whether_it_is_there(part, module, name):
    assert name in NAMES[part][module]


UPSTREAM = {
    "sat/train_video.py": """
        import torch, wandb_of_another as w
        from einops import rearrange as r
        from mine import helper
        from packaging import version
        try:
            import xformers
        except ImportError:
            pass
        if version.parse(torch.__version__) >= version.parse("2.0.0"):
            from torch.backends.cuda import sdp_kernel
        else:
            from torch import ancient
        def f(x):
            x.attribute
            return torch.nn.functional.silu(x)
    """,
    "sat/mine.py": "from kornia import geometry\n",
    "sat/sample_video.py": "import json\n",
    "sat/data_video.py": "import decord\ndecord.bridge.set_bridge('torch')\n",
    "sat/unused.py": "import tensorflow\n",
    "sat/configs/a.yaml": "model:\n  target: sat.model.Thing\n",
}


def test_the_table_is_made_from_a_commit_of_upstreams(tmp_path):
    """What is imported behind a guard isn't taken, nor what no entry point reaches; nothing of it is run."""
    for name, text in UPSTREAM.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    script = Path(__file__).parents[2] / "scripts" / "upstream-names"
    made = subprocess.run([sys.executable, script, tmp_path, "HEAD"], capture_output=True, text=True, check=True).stdout
    table = yaml.safe_load(made)
    assert table["data"] == {"decord": ["bridge", "bridge.set_bridge"]} or table["data"] == {
        "decord": ["bridge.set_bridge"]
    }
    training = table["training"]
    assert {"tensorflow", "xformers", "json", "mine"}.isdisjoint(training)
    assert training["torch.backends.cuda"] == ["sdp_kernel"] and "ancient" not in training["torch"]
    assert "nn.functional.silu" in training["torch"] and training["einops"] == ["rearrange"]
    assert training["kornia"] == ["geometry"] and training["sat.model"] == ["Thing"]


def test_every_module_of_sat_is_imported_but_those_that_nobody_can(closure):
    for name, text in {"mpu/__init__": "", "mpu/layers": "x = 1\n", "tokenization": "import nltk\n"}.items():
        closure.module(f"sat/{name}", text)
    result = closure.check("imports.sat-modules")
    assert result.status == "passed" and result.finding.startswith("2 modules of SwissArmyTransformer import; 1 ask")
    assert result.details["unused"] == ["sat.tokenization"]
    closure.module("sat/mpu/layers", "from torch import a_name_that_torch_removed\n")
    result = closure.check("imports.sat-modules")
    assert result.status == "failed" and "sat.mpu.layers (ImportError: cannot import name" in result.finding
    closure.module("sat/mpu/layers", "import a_module_that_is_gone\n")
    assert "No module named 'a_module_that_is_gone'" in closure.check("imports.sat-modules").finding
