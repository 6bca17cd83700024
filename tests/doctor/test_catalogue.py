"""The catalogue: complete, stable, and in step with the probe code and the breakage ledger."""

from __future__ import annotations

import importlib

import pytest

from cogvideo_sat_env import doctor
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor import catalogue
from cogvideo_sat_env.doctor.catalogue import CHECKS, select
from cogvideo_sat_env.spec.breakage import read_ledger

# Users' scripts and the ledger name these: an id may be added, never renamed or removed.
STABLE = {
    "identity.distribution", "identity.floors", "identity.bounds", "identity.activation", "identity.pollution",
    "imports.alone", "imports.together", "imports.order", "imports.upstream-names", "video.decord", "video.write",
    "data.webdataset", "text.t5", "training.zero2", "training.checkpoint", "lora.safetensors", "toolchain.compiler",
    "toolchain.nvcc", "toolchain.extensions-dir", "hardware.gpu", "identity.receipt", "identity.overwritten",
    "identity.files", "identity.libraries", "imports.sat-modules", "video.codecs", "video.sizes", "video.broken",
    "data.folder", "data.shards", "storage.space", "storage.shared", "storage.import-time", "security.advisories",
    "security.permissions",
}  # fmt: skip


def test_ids_are_unique_and_stable():
    ids = [spec.id for spec in CHECKS]
    assert len(set(ids)) == len(ids) and set(ids) >= STABLE


@pytest.mark.parametrize("spec", CHECKS, ids=lambda spec: spec.id)
def test_every_check_has_its_code(spec):
    """The probe files import only the standard library, so that any Python can load them."""
    module = importlib.import_module(f"cogvideo_sat_env.doctor.checks.{spec.subject}")
    assert callable(getattr(module, spec.function)) and getattr(module, spec.function).__doc__


def test_checks_of_one_subject_stand_together():
    subjects = [spec.subject for spec in CHECKS]
    groups = [name for index, name in enumerate(subjects) if index == 0 or subjects[index - 1] != name]
    assert len(groups) == len(set(groups))


def test_the_ledger_names_only_checks_that_exist():
    ledger = read_ledger()
    named = {check for entry in (*ledger.entries, *ledger.variables) for check in entry.proof.checks}
    assert named and named <= {spec.id for spec in CHECKS}


def test_what_a_check_refers_to_exists():
    ids = {spec.id for spec in CHECKS}
    for spec in CHECKS:
        assert {*spec.after, *([spec.joins] if spec.joins else [])} <= ids, spec.id


def test_full_includes_quick_in_the_same_order():
    quick, full = select("quick"), select("full")
    assert full == list(CHECKS) and quick == [spec for spec in full if spec.level == "quick"] and len(quick) < len(full)


def test_gpu_is_quick_and_what_needs_a_gpu():
    chosen = select("gpu")
    assert chosen == [spec for spec in CHECKS if spec.level in ("quick", "gpu")]


def test_only_overrides_the_level_and_takes_subjects():
    training = [spec.id for spec in CHECKS if spec.subject == "training"]
    assert [spec.id for spec in select("quick", only=["training"])] == training
    assert [spec.id for spec in select("quick", only=["training", "text.t5"], skip=["training.zero2"])] == [
        "text.t5", *(name for name in training if name != "training.zero2"),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"only": ["video.decrod"]}, {"skip": ["vidoe"]}, {"level": "deep"}], ids=repr)
def test_an_unknown_name_is_refused(wrong):
    with pytest.raises(InputError):
        select(**({"level": "full"} | wrong))


def test_the_list_says_what_each_check_catches():
    items = doctor.list_checks()
    assert [item["id"] for item in items] == [spec.id for spec in catalogue.ALL_CHECKS]
    assert all(item["catches"] and item["subject"] and item["level"] in doctor.LEVELS for item in items)
