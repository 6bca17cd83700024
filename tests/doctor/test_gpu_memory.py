"""`satenv plan`: the formula, upstream's published figures as bounds, the verdicts, the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.doctor import gpu_memory
from cogvideo_sat_env.doctor.gpu_memory import FITS, MAYBE, NO, TrainingSetup, estimate

GIB = 2**30
# THUDM/CogVideo, README.md: "Fine-tuning VRAM Consumption (per GPU)"
PUBLISHED = [
    ("2b", "lora", 1, 47), ("2b", "lora", 2, 61), ("2b", "full", 1, 62),
    ("5b", "lora", 1, 63), ("5b", "lora", 2, 80), ("5b", "full", 1, 75),
]  # fmt: skip


@pytest.mark.parametrize(("model", "method", "batch", "gigabytes"), PUBLISHED)
def test_upstreams_figures_lie_inside_the_range(model, method, batch, gigabytes):
    """Whether they are meant as 10^9 bytes or as GiB, which nvidia-smi shows."""
    answer = estimate(TrainingSetup(model, method, gpus=8, zero=2, batch=batch))
    assert answer.total.low < gigabytes * 1e9 and gigabytes * GIB < answer.total.high
    assert answer.published == gigabytes


def test_the_weights_are_those_of_the_models():
    """2B and 5B, counted by the shapes; a layer has 12 h² weights without its modulation."""
    two, five = estimate(TrainingSetup("2b")), estimate(TrainingSetup("5b"))
    assert 1.68e9 < two.transformer < 1.70e9 and 5.5e9 < five.transformer < 5.6e9
    assert gpu_memory.t5_weights() == 24 * (4 * 4096**2 + 3 * 4096 * 10240) + 32128 * 4096
    assert two.trained == 30 * 8 * 128 * 1920
    assert estimate(TrainingSetup("5b", "full")).trained == five.transformer


def test_tokens_are_those_of_a_clip():
    assert estimate(TrainingSetup()).tokens == 226 + 13 * 30 * 45
    assert estimate(TrainingSetup(frames=1, height=256, width=256)).tokens == 226 + 16 * 16


def test_each_zero_stage_divides_one_part_more():
    parts = {zero: estimate(TrainingSetup("5b", "full", gpus=4, zero=zero)).parts for zero in (0, 1, 2, 3)}
    weights = estimate(TrainingSetup("5b", "full")).transformer
    assert parts[0]["optimizer"].low == 16 * weights and parts[1]["optimizer"].high == 4 * weights
    assert parts[1]["gradients"].low == 2 * weights and parts[2]["gradients"].low == weights / 2
    assert parts[2]["weights"].low == 2 * weights and parts[3]["weights"].high == weights / 2


def test_lora_keeps_all_weights_and_trains_few():
    lora, full = estimate(TrainingSetup("2b", "lora")), estimate(TrainingSetup("2b", "full"))
    assert lora.parts["weights"].low == 2 * (lora.transformer + lora.trained)
    assert lora.parts["optimizer"].high == 16 * lora.trained < full.parts["optimizer"].high / 20


@pytest.mark.parametrize("more", [{"batch": 2}, {"frames": 81}, {"height": 768}, {"width": 1360}, {"dtype": "fp32"}])
def test_more_work_needs_more_memory(more):
    less, greater = estimate(TrainingSetup()), estimate(TrainingSetup(**more))
    assert greater.total.high > less.total.high and greater.total.low >= less.total.low


def test_fp32_has_no_second_copy_of_the_weights():
    assert estimate(TrainingSetup(dtype="fp32")).parts["optimizer"].low == 12 * estimate(TrainingSetup()).trained


def test_the_verdict_is_certain_only_outside_the_range():
    answer = estimate(TrainingSetup())
    assert answer.verdict(answer.total.high) == FITS and answer.verdict(answer.total.low - 1) == NO
    assert answer.verdict((answer.total.low + answer.total.high) / 2) == MAYBE


def test_a_published_figure_is_shown_only_for_its_own_recipe():
    assert estimate(TrainingSetup(gpus=8)).published == 47
    assert [
        estimate(TrainingSetup(gpus=8, **more)).published for more in ({"frames": 81}, {"zero": 3}, {"batch": 4})
    ] == [None] * 3


def test_the_doctor_gets_a_verdict_for_each_recipe():
    small, large = gpu_memory.verdicts(16 * 1024, 1), gpu_memory.verdicts(141 * 1024, 8)
    assert set(small) == {"2b lora", "2b full", "5b lora", "5b full"}
    assert set(small.values()) == {NO} and set(large.values()) == {FITS}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": 48}, "48 frames"), ({"height": 470}, "height 470"), ({"width": 8}, "width 8"),
        ({"gpus": 0}, "number of GPUs 0"), ({"batch": -1}, "batch size -1"), ({"zero": 4}, "ZeRO stage 4"),
        ({"model": "9b"}, "model '9b'"), ({"method": "qlora"}, "method 'qlora'"), ({"dtype": "int8"}, "dtype 'int8'"),
    ],
)  # fmt: skip
def test_a_recipe_that_nobody_can_train_is_refused_with_what_to_type(wrong, words):
    with pytest.raises(InputError) as caught:
        estimate(TrainingSetup(**wrong))
    assert words in caught.value.message and caught.value.remedy


def test_the_command_prints_parts_verdicts_and_what_it_is():
    run = CliRunner().invoke(cli, ["plan", "--model", "5b", "--method", "full", "--gpus", "8"])
    assert run.exit_code == 0, run.output
    assert "CogVideoX-5B, full fine-tuning, bf16, 8 GPUs, ZeRO-2" in run.output and "activations" in run.output
    assert "published 75 GB" in run.output and "not measured" in run.output
    assert all(len(line) <= 88 for line in run.output.splitlines())


def test_the_json_adds_up():
    run = CliRunner().invoke(cli, ["plan", "--json", "--batch", "2"])
    answer = json.loads(run.output)
    parts = answer["per_gpu"]
    assert abs(sum(part["low"] for name, part in parts.items() if name != "total") - parts["total"]["low"]) < 10
    assert {item["verdict"] for item in answer["verdicts"]} <= {FITS, MAYBE, NO}
    assert answer["parameters"]["trained"] == 30 * 8 * 128 * 1920 and answer["published_gb"] is None
