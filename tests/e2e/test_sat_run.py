"""doctor --sat on a small checkout of our own that trains for real: SAT's training_main, DeepSpeed, sampling, mp4."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import satenv
from satcheckout import make_data, make_weights, model, training, write_yaml

pytestmark = pytest.mark.e2e

TREE = Path(__file__).parents[1] / "minisat"
Examine = Callable[..., dict[str, dict]]


@pytest.fixture
def examine(tmp_path: Path, wheels_prefix: Path) -> Examine:
    """Run the doctor on a copy of the tree with these YAMLs; return its results by topic, the exit code beside them."""

    def run(network: dict, only: str = "sat.run", **args: object) -> dict[str, dict]:
        top = tmp_path / "CogVideo"
        if not top.exists():
            shutil.copytree(TREE, top)
            make_weights(top / "sat")
            make_data(top / "sat" / "clips")
        sections = model(**network)
        sections["model"]["network_config"]["params"]["modules"].pop("lora_config")
        sections["model"].pop("not_trainable_prefixes")
        bases = [
            write_yaml(top / "sat" / "configs" / "model.yaml", sections),
            write_yaml(top / "sat" / "configs" / "sft.yaml", training(**args)),
        ]
        before = {path: path.stat().st_mtime_ns for path in top.rglob("*")}
        named = [word for base in bases for word in ("--base", str(base))]
        done = satenv("doctor", "-p", str(wheels_prefix), "--sat", str(top), *named, "--only", only, "--json")
        assert {path: path.stat().st_mtime_ns for path in top.rglob("*")} == before  # nothing is written there
        report = json.loads(done.stdout)
        assert done.returncode == report["exit_code"], done.stderr
        return {result["id"]: result for result in report["results"]}

    return run


def test_three_steps_of_the_users_own_code_and_one_sample(examine):
    """The user's clips are no videos, so that ours would be missed if they were taken in their place."""
    found = examine({}, "sat")
    assert found["sat.modules"]["status"] == "passed", found["sat.modules"]
    assert found["sat.data"]["status"] == "failed" and found["sat.configs"]["status"] == "passed"
    assert found["sat.run"]["status"] == "failed" and "data_video.py" in found["sat.run"]["finding"]


def test_with_clips_that_can_be_read_training_evaluation_and_sampling_pass(examine, tmp_path):
    found = examine({}, train_data=["nowhere"], valid_data=["nowhere"])["sat.run"]
    assert found["status"] == "passed", found
    assert "3 steps" in found["finding"] and "sampled" in found["finding"] and "mp4" in found["finding"]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"patch_size": 2}, "'int' object is not subscriptable (dit_video_concat.py:"),
        ({"patch_size": [2, 2, 2]}, "EinopsError"),
        ({"ofs_embed_dim": 512}, "KeyError: 'ofs' (dit_video_concat.py:"),
    ],
)
def test_what_fails_at_full_size_fails_in_the_shrunk_run_with_the_users_own_line(examine, network, words):
    found = examine(network, train_data=["nowhere"], valid_data=["nowhere"])["sat.run"]
    assert found["status"] == "failed" and words in found["finding"], found
    assert found["remedy"] and not os.path.exists("nowhere")
