"""Model and training checks on environments whose SAT is really broken: each names its own reason.

The packages of a good environment, with a changed copy of SAT in front of them; its compiled extensions are used as they
are, because for other paths DeepSpeed would compile again, for a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cogvideo_sat_env import doctor
from cogvideo_sat_env.doctor import activated_env

from .overlay import Overlay

pytestmark = pytest.mark.e2e


class Broken:
    """A prefix in `root` with the packages of `good`; what is put into `front` is imported in their place."""

    def __init__(self, good: Path, root: Path, front: Path) -> None:
        self.root, self.front = Overlay.bare(good, root), front
        (site,) = good.glob("lib/python3*/site-packages")
        shutil.copytree(site / "sat", front / "sat")
        python = self.root / "bin" / "python"
        python.write_text(python.read_text().replace("exec ", f'PYTHONPATH="{front}" exec '))

    def patch(self, path: str, old: str, new: str) -> None:
        """Change SAT's code in one place."""
        file = self.front / "sat" / path
        text = file.read_text()
        assert text.count(old) == 1, path
        file.write_text(text.replace(old, new))

    def examine(self, *checks: str) -> dict[str, doctor.CheckResult]:
        return {result.id: result for result in doctor.run(self.root, only=checks).results}


@pytest.fixture
def broken(good_prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, value in activated_env.capture(good_prefix, tmp_path).sets.items():
        if name.startswith("TORCH"):
            monkeypatch.setenv(name, value)
    return Broken(good_prefix, tmp_path / "broken", tmp_path / "front")


def test_the_model_checks_name_attention_merging_and_beartype(broken):
    broken.patch("transformer_defaults.py", "        return attn_output\n", "        return value_layer\n")
    broken.patch("model/finetune/lora2.py", "@ mA.data.float() * lin.scaling", "@ mA.data.float()")
    (broken.front / "beartype").mkdir()
    (broken.front / "beartype" / "__init__.py").write_text("def beartype(function): return function\n")
    (broken.front / "beartype" / "roar.py").write_text("class BeartypeCallHintViolation(Exception): pass\n")
    found = broken.examine("model.transformer", "model.lora", "model.vae")
    assert {result.status for result in found.values()} == {"failed"}
    assert "no finite gradient for mixins.adaln_layer.query_layernorm" in found["model.transformer"].finding
    assert "after merging, the output is" in found["model.lora"].finding
    assert "beartype lets a text pass where a number is declared" in found["model.vae"].finding


def test_a_checkpoint_that_is_not_taken_over_and_lora_that_trains_all_are_named(broken):
    broken.patch(
        "training/model_io.py",
        "missing_keys, unexpected_keys = module.load_state_dict(sd['module'], strict=False)",
        "missing_keys, unexpected_keys = [], []",
    )
    broken.patch("training/deepspeed_training.py", "model.disable_untrainable_params() #", "pass #")
    found = broken.examine("training.checkpoint", "training.resume", "training.lora")
    assert "not those that were saved" in found["training.checkpoint"].finding
    assert found["training.resume"].status == "failed" and "resumed at step 2, the next loss is 1.37" in (
        found["training.resume"].finding
    )  # the loss of an untrained model
    assert "LoRA changes weights that must stay as they are" in found["training.lora"].finding


def test_gradients_that_are_not_averaged_are_named(broken):
    broken.patch(
        "training/deepspeed_training.py", "    # Tracking loss.\n",
        "    optimizer.buffered_reduce_fallback = lambda *args, **kwargs: None\n    # Tracking loss.\n",
    )  # fmt: skip
    result = broken.examine("training.two-processes")["training.two-processes"]
    assert result.status == "failed" and "gradients are not averaged over the processes" in result.finding, (
        result.finding
    )


def test_a_rank_that_dies_while_training_is_named(broken):
    broken.patch(
        "training/deepspeed_training.py", "    # Tracking loss.\n",
        "    if os.environ['RANK'] == '1':\n        os._exit(9)\n    # Tracking loss.\n",
    )  # fmt: skip
    result = broken.examine("training.two-processes")["training.two-processes"]
    assert result.status == "failed" and "rank 1 of 2 died with exit code 9" in result.finding, result.finding
