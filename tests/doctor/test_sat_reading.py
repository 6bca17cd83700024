"""What reading a user's checkout, configs, weights and data finds: each failure that upstream reports late or never."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.sat import check_and_fix, checkout, clips, code, configs, examine, fix, rules, weights
from cogvideo_sat_env.doctor.sat.finding import FAILED, WARNING, Finding
from satcheckout import make_checkout, model, save_torch, training, write_yaml

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n"


@pytest.fixture
def sat(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "CogVideo")


def run_of(sat: Path, options: tuple[tuple[str, str], ...] = ()) -> rules.Run:
    bases = [sat / "configs" / "model.yaml", sat / "configs" / "sft.yaml"]
    return rules.Run(checkout.find(sat), configs.read(bases), options)


def everything(run: rules.Run) -> list[Finding]:
    return [*rules.judge(run), *code.targets(run), *weights.examine(run), *clips.examine(run)]


def at(data: dict[str, Any], dotted: str) -> tuple[dict[str, Any], str]:
    *path, last = dotted.split(".")
    for key in path:
        data = data.setdefault(key, {})
    return data, last


NETWORK = "model.network_config.params"
POSITIONS = f"{NETWORK}.modules.pos_embed_config.params"
# id of the finding, its status, values that differ from the good run, the remedy's words
FAULTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("sat.patch-size", FAILED, {f"{NETWORK}.patch_size": 2}, "patch_size: [1, 2, 2]"),
    ("sat.patch-size", FAILED, {f"{NETWORK}.patch_size": [2, 2]}, "[2, 2, 2] for 1.5"),
    ("sat.interpolation", FAILED, {f"{POSITIONS}.height_interpolation": 1.875}, "network_config.params"),
    ("sat.interpolation", FAILED, {f"{POSITIONS}.time_interpolation": 2.0}, "network_config.params"),
    ("sat.latent-input", FAILED, {"model.latent_input": True}, "latent_input: false"),
    ("sat.latent-frames", FAILED, {f"{NETWORK}.patch_size": [2, 2, 2]}, "max_num_frames: 45"),
    ("sat.latent-frames", WARNING, {"data.params.max_num_frames": 47}, "max_num_frames: 45"),
    ("sat.ofs", FAILED, {f"{NETWORK}.ofs_embed_dim": 512}, "sat fix --code"),
    ("sat.warmup", FAILED, {"args.warmup": 0}, "warmup: 0.01"),
    ("sat.warmup", FAILED, {"args.warmup": 0.0}, "warmup: 0.01"),
    ("sat.resume", FAILED, {"args.mode": "pretrain", "args.no_load_rng": False}, "no_load_rng: True"),
    ("sat.force-train", FAILED, {"args.force_train": False}, "force_train: True"),
    ("sat.precision", FAILED, {"deepspeed.bf16.enabled": True}, "one of them off"),
    ("sat.precision", WARNING, {"deepspeed.bf16.enabled": True, "deepspeed.fp16.enabled": False}, "fp16 on"),
    ("sat.lora", FAILED, {f"{NETWORK}.modules.lora_config": None}, "lora_config"),
    ("sat.lora", WARNING, {"model.not_trainable_prefixes": None}, "['all']"),
    ("sat.lora", FAILED, {"model.lora_config": {"target": "x"}}, "network_config.params.modules"),
    ("sat.channels", FAILED, {"model.noised_image_input": True}, "one model"),
    ("sat.channels", FAILED, {f"{NETWORK}.in_channels": 32}, "one model"),
    ("sat.size", FAILED, {"data.params.video_size": [480, 724]}, "width 720"),
    ("sat.size", FAILED, {"data.params.video_size": [320, 480]}, "video_size: [480, 720]"),
    ("sat.frames", FAILED, {"data.params.max_num_frames": 81}, "max_num_frames: 49"),
    ("sat.text-length", FAILED, {f"{POSITIONS}.text_length": 224}, "text_length: 226"),
    ("sat.batch", FAILED, {"deepspeed.train_micro_batch_size_per_gpu": None}, "train_micro_batch_size_per_gpu: 1"),
    ("sat.batch", FAILED, {"deepspeed.train_micro_batch_size_per_gpu": 0}, "train_micro_batch_size_per_gpu: 1"),
    ("sat.zero", FAILED, {"deepspeed.zero_optimization.stage": 4}, "stage: 2"),
    ("sat.zero", WARNING, {"deepspeed.zero_optimization.stage": 3}, "stage: 2"),
    ("sat.length", FAILED, {"args.epochs": 2}, "remove one"),
    ("sat.save", FAILED, {"args.save": None}, "save: ckpts"),
    ("sat.save", WARNING, {"args.save_interval": 5000}, "save_interval: 250"),
    ("sat.data", FAILED, {"args.train_data": None}, "train_data"),
    ("sat.data", FAILED, {"args.train_data_weights": [1, 2]}, "one for each folder"),
    ("sat.split", FAILED, {"args.split": None}, "split: 1,0,0"),
    ("sat.split", FAILED, {"args.split": "100,1,1"}, "split: 1,0,0"),
    ("sat.evaluation", FAILED, {"args.eval_batch_size": None}, "eval_batch_size: 1"),
    ("sat.placeholder", FAILED, {"args.load": "{your CogVideoX SAT folder}/transformer"}, "path"),
    ("sat.target", FAILED, {"data.target": "data_video.OtherDataset"}, "name"),
    ("sat.load", FAILED, {"args.load": "nowhere"}, "path"),
    ("sat.load", FAILED, {"args.load": "transformer/1"}, "load: transformer"),
    ("sat.load", WARNING, {"args.load": None}, "published"),
    ("sat.load", FAILED, {"args.model_parallel_size": 2}, "model_parallel_size: 1"),
    ("sat.vae", FAILED, {"model.first_stage_config.params.ckpt_path": "vae"}, "relative to sat/"),
    ("sat.data", FAILED, {"args.train_data": ["disney"]}, "relative to sat/"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "status", "values", "remedy"), FAULTS, ids=lambda value: str(value)[:60])
def test_a_value_that_fails_is_named_with_its_line_and_what_to_write(sat, rule, status, values, remedy):
    sections = model() | training()
    for dotted, value in values.items():
        holder, key = at(sections, dotted)
        holder[key] = value
        if value is None:
            del holder[key]
    write_yaml(sat / "configs" / "model.yaml", {"model": sections["model"]})
    write_yaml(sat / "configs" / "sft.yaml", {name: sections[name] for name in ("args", "data", "deepspeed")})
    found = [item for item in everything(run_of(sat)) if item.id == rule]
    assert [item.status for item in found] == [status]
    assert remedy in found[0].remedy
    file, line = found[0].where.rsplit(":", 1)
    text = (sat / file).read_text().splitlines()[int(line) - 1]
    named = [dotted.rpartition(".")[2] for dotted in values]
    assert any(name in text for name in named) or rule in (
        "sat.latent-frames", "sat.precision", "sat.lora", "sat.resume", "sat.force-train", "sat.channels", "sat.load",
        "sat.batch", "sat.save", "sat.data", "sat.size", "sat.length", "sat.split",
        "sat.evaluation",
    )  # fmt: skip


def test_nothing_is_found_in_a_run_that_is_right(sat):
    assert everything(run_of(sat)) == []


def test_a_patched_checkout_is_not_blamed_for_what_it_mends(sat):
    write_yaml(sat / "configs" / "model.yaml", model(patch_size=2, ofs_embed_dim=512))
    (sat / "dit_video_concat.py").write_text(
        "class DiffusionTransformer: ...\nclass Positions: ...\nclass Patches: ...\n"
    )
    assert not {"sat.patch-size", "sat.ofs"} & {item.id for item in rules.judge(run_of(sat))}


@pytest.mark.parametrize(
    ("network", "frames", "rule"),
    [({}, 22, "sat.frames"), ({"num_frames": 81, "patch_size": [2, 2, 2]}, 13, "sat.latent-frames"), ({}, 13, None)],
)
def test_sampling_counts_latent_frames(sat, network, frames, rule):
    write_yaml(sat / "configs" / "model.yaml", model(**network))
    args = {
        "mode": "inference",
        "load": "transformer",
        "force_inference": True,
        "fp16": True,
        "sampling_num_frames": frames,
    }
    write_yaml(sat / "configs" / "sft.yaml", {"args": args})
    assert [item.id for item in rules.judge(run_of(sat))] == ([rule] if rule else [])


def test_a_later_file_wins_as_in_omegaconf_and_its_line_is_named(sat):
    later = write_yaml(sat / "configs" / "mine.yaml", {"args": {"warmup": 0}, "data": {"params": {"fps": 16}}})
    config = configs.read([sat / "configs" / "model.yaml", sat / "configs" / "sft.yaml", later])
    assert config.get("data.params.fps") == 16 and config.get("data.params.max_num_frames") == 49
    (found,) = (item for item in rules.judge(rules.Run(checkout.find(sat), config)) if item.id == "sat.warmup")
    assert found.where == "configs/mine.yaml:2"


def test_numbers_and_anchors_are_read_as_omegaconf_reads_them(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("args: &common\n  lr: 1e-8\n  name: '12e'\nmodel:\n  <<: *common\n  lr: 2\n")
    config = configs.read([file])
    assert config.get("args.lr") == 1e-8 and config.get("args.name") == "12e"
    assert config.get("model.lr") == 2 and config.get("model.name") == "12e"


def test_the_command_line_loses_against_the_yaml_and_that_is_said(sat):
    (found,) = rules.judge(run_of(sat, (("train_iters", "10"), ("seed", "3"))))
    assert found.id == "sat.command-line" and "train_iters: 1000 wins" in found.finding


def test_a_key_that_no_parser_knows_is_dropped_silently_upstream_and_said_here(sat, tmp_path):
    installed = tmp_path / "sat"
    installed.mkdir()
    names = (name.replace("_", "-") for name in training()["args"])
    (installed / "arguments.py").write_text("".join(f'add_argument("--{name}")\n' for name in names))
    write_yaml(sat / "configs" / "sft.yaml", training(sav_interval=5, only_log_video_latents=True))
    (found,) = code.options(run_of(sat), installed)
    assert found.status == WARNING and "sav_interval" in found.finding and "save_interval" in found.remedy


# what is done to a file of the weights, the words that name it
DAMAGE: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("sat.weights", "transformer/1/mp_rank_00_model_states.pt", lambda p: p.write_bytes(LFS), "Git LFS pointer"),
    ("sat.weights", "transformer/1/mp_rank_00_model_states.pt", lambda p: p.write_bytes(p.read_bytes()[:3000]), "cut off"),
    ("sat.weights", "transformer/1/mp_rank_00_model_states.pt", lambda p: p.write_bytes(b""), "empty"),
    ("sat.weights", "transformer/1/mp_rank_00_model_states.pt", lambda p: p.write_bytes(b"<!DOCTYPE html><html>"), "web page"),
    ("sat.weights", "vae/3d-vae.pt", lambda p: p.write_bytes(b"hello"), "no file of torch.save"),
    ("sat.load", "transformer/latest", lambda p: p.write_text("500-ema"), "echo 500"),
    ("sat.load", "transformer/latest", lambda p: p.write_text("7"), "no such file; `latest` says 7"),
    ("sat.load", "transformer/latest", lambda p: p.unlink(), "no file `latest`"),
    ("sat.vae", "vae/3d-vae.pt", lambda p: p.unlink(), "no such file"),
    ("sat.t5", "t5/spiece.model", lambda p: p.unlink(), "lacks spiece.model"),
    ("sat.t5", "t5/spiece.model", lambda p: p.write_bytes(LFS), "Git LFS pointer"),
    ("sat.weights", "t5/model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1]), "cut off"),
    ("sat.weights", "t5/model.safetensors", lambda p: p.write_bytes(LFS), "Git LFS pointer"),
    ("sat.t5", "t5/model.safetensors", lambda p: p.unlink(), "lacks model.safetensors"),
    ("sat.t5", "t5/config.json", lambda p: p.write_text('{"d_model": 512}'), "width 512"),
    ("sat.t5", "t5", lambda p: shutil.rmtree(p), "no such folder"),
    ("sat.data", "clips", lambda p: shutil.rmtree(p / "videos"), "no file ends in .mp4"),
    ("sat.data", "clips/videos/1.mp4", lambda p: p.write_bytes(LFS), "Git LFS pointers"),
    ("sat.captions", "clips/labels/2.txt", lambda p: p.unlink(), "1 of 3 clips have no caption"),
    ("sat.captions", "clips/labels/2.txt", lambda p: p.write_text("\n"), "empty first line"),
    ("sat.captions", "clips/labels/2.txt", lambda p: p.write_bytes(b"caf\xe9\n"), "not UTF-8"),
    ("sat.data", "clips/videos/1.mp4", lambda p: p.rename(p.with_suffix(".MP4")), "not read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "name", "damage", "words"), DAMAGE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_weights_and_data_that_are_not_whole_are_named_before_hours_are_lost(sat, rule, name, damage, words):
    damage(sat / name)
    found = [item for item in everything(run_of(sat)) if item.id == rule]
    assert found and any(words in f"{item.finding} {item.remedy}" for item in found), found


def test_a_sharded_t5_is_whole_only_with_all_shards_of_its_index(sat):
    (sat / "t5" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}'
    )
    (found,) = weights.examine(run_of(sat))
    assert "gone.safetensors: no such file" in found.finding


def test_the_diffusers_layout_of_t5_is_recognised(sat):
    shutil.rmtree(sat / "t5")
    (sat / "t5" / "text_encoder").mkdir(parents=True)
    (found,) = weights.examine(run_of(sat))
    assert "diffusers layout" in found.finding and "cp " in found.remedy


def test_scripts_that_name_missing_yamls_or_hide_a_failure_are_named(sat):
    found = [str(item) for item in code.scripts(checkout.find(sat))]
    assert any("finetune_multi_gpus.sh:2: names configs/test_model.yaml" in item for item in found)
    assert sum("exits 0 though training failed" in item for item in found) == 2


@pytest.mark.parametrize("kind", ["file", "nothing", "empty", "half", "library"])
def test_what_is_no_checkout_is_refused_in_one_sentence(tmp_path, sat, kind):
    place = tmp_path / kind
    if kind == "file":
        place.write_text("x")
    elif kind == "half":
        shutil.copytree(sat, place)
        (place / "arguments.py").unlink()
    elif kind == "library":
        (place / "sat" / "mpu").mkdir(parents=True)
    elif kind == "empty":
        place.mkdir()
    words = {
        "file": "is a file", "nothing": "no such folder", "empty": "holds no CogVideo checkout", "half": "lacks arguments.py",
        "library": "SwissArmyTransformer, the library",
    }  # fmt: skip
    with pytest.raises(InputError, match=words[kind]) as caught:
        checkout.find(place)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "words"),
    [("- a\n- b\n", "holds a list"), ("", "holds nothing"), ("a: [1\n", "expected"), ("a: 1\na: 2\n", "stands twice")],
)
def test_a_yaml_that_is_none_is_refused_with_its_name(sat, text, words):
    (sat / "configs" / "sft.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        run_of(sat)
    assert "sft.yaml" in str(caught.value)


def test_a_yaml_that_does_not_exist_is_answered_with_those_that_do(sat):
    with pytest.raises(InputError) as caught:
        examine.open_run(examine.SatOptions(sat, [Path("configs/test_sft.yaml")]))
    assert "configs/model.yaml" in str(caught.value.remedy)


def test_commit_and_changed_files_are_told(tmp_path):
    sat = make_checkout(tmp_path / "CogVideo", git=True)
    (sat / "data_video.py").write_text("changed = True\n")
    status, text, changed = code.state(checkout.find(sat.parent))
    assert status == WARNING and "not compared" in text and changed == ["sat/data_video.py"]


def test_corrected_copies_keep_comments_and_have_nothing_left_to_correct(sat):
    path = sat / "configs" / "model.yaml"
    sections = model(patch_size=2)
    sections["model"]["network_config"]["params"]["modules"]["pos_embed_config"]["params"]["height_interpolation"] = (
        1.875
    )
    write_yaml(path, sections)
    path.write_text("# mine\n" + path.read_text().replace("patch_size: 2", "patch_size: 2  # of the paper"))
    write_yaml(sat / "configs" / "sft.yaml", training(warmup=0, force_train=None))
    before = {file.name: file.read_text() for file in (sat / "configs").iterdir()}
    done = check_and_fix.fix(sat, [path, sat / "configs" / "sft.yaml"], out=None, patches=None, undo=False)
    copies = [Path(done.written[str(path)]), Path(done.written[str(sat / "configs" / "sft.yaml")])]
    assert {name: (sat / "configs" / name).read_text() for name in before} == before
    assert copies[0].read_text().startswith("# mine\n") and "[1, 2, 2]  # of the paper" in copies[0].read_text()
    assert rules.judge(rules.Run(checkout.find(sat), configs.read(copies))) == []
    lines = [set(text.splitlines()) for text in (before["model.yaml"], copies[0].read_text())]
    assert len(lines[0] - lines[1]) == 2  # patch_size, and the line that moved out


def test_a_mapping_that_loses_its_last_key_stays_a_mapping():
    text = "a:\n  b:\n    c: 1\nd:\n  e: 2\n"
    edit = fix.Edit("x.yaml", ("a", "b", "c"), None, ("d",))
    assert yaml.safe_load(fix.corrected(text, [edit])) == {"a": {"b": {}}, "d": {"c": 1, "e": 2}}


def test_check_ends_with_one_exactly_when_something_will_fail(sat):
    bases = [sat / "configs" / "model.yaml", sat / "configs" / "sft.yaml"]
    assert check_and_fix.check(sat, bases).exit_code == 0
    (sat / "vae" / "3d-vae.pt").unlink()
    found = check_and_fix.check(sat, bases)
    assert found.exit_code == 1 and "3d-vae.pt" in found.to_text() and found.to_json()["exit_code"] == 1
    save_torch(sat / "vae" / "3d-vae.pt")
