"""`satenv freshen`: newer locks are taken over whole when everything passes, and not at all otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import zstandard

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.base.timestamp import parse_age
from cogvideo_sat_env.lock import pip_index
from cogvideo_sat_env.lock.relock import Relocked
from cogvideo_sat_env.lock.verify_lock import Mismatch
from cogvideo_sat_env.report import freshen as module
from cogvideo_sat_env.report import probe_bounds, trial_project
from cogvideo_sat_env.report.freshen import FreshenRequest, freshen
from cogvideo_sat_env.report.probe_bounds import HOLDS, LIFT, OPEN, beyond, rewritten
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import read_environment

PROJECT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 26, tzinfo=timezone.utc)
WEEKS = timedelta(days=14)
ENTRIES = {entry.id: entry for entry in read_ledger().entries}


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def relocked(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A lock that changes two files of the copy; what `check` finds there is set by the test."""
    said: dict = {"findings": [], "roots": []}

    def lock(copy: Path, **_: object) -> Relocked:
        said["roots"].append(copy)
        lines = (copy / "environment.yml").read_text()
        (copy / "environment.yml").write_text(lines + "# newer\n")
        (copy / "locks" / "new.txt").write_text("new\n")
        return Relocked(["environment.yml"], {}, ("colorama",))

    monkeypatch.setattr(module, "lock_project", lock)
    monkeypatch.setattr(module, "check_project", lambda copy: said["findings"])
    return said


def test_what_passes_is_taken_over_and_what_could_not_be_tried_is_named(project, relocked):
    found = freshen(project, FreshenRequest(NOW, WEEKS, sources=()), Silent())
    assert found.ok and found.written and found.changed == ["environment.yml", "locks/new.txt"]
    assert (project / "locks/new.txt").is_file() and (project / "environment.yml").read_text().endswith("# newer\n")
    text = found.to_markdown()
    assert "before 2026-11-12T00:00:00 UTC" in text and "of unknown age, and taken: colorama" in text
    assert not relocked["roots"][0].exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_disagreement_or_a_dry_run_changes_no_file(project, relocked, dry_run):
    before = files(project)
    if not dry_run:
        relocked["findings"] = [Mismatch("recipe/recipe.yaml", "differs", "render")]
    found = freshen(project, FreshenRequest(NOW, WEEKS, sources=(), dry_run=dry_run), Silent())
    assert files(project) == before and not found.written and found.ok is dry_run
    assert dry_run or "recipe/recipe.yaml: differs" in found.to_markdown()


@pytest.mark.parametrize(
    ("create", "doctor", "status", "words"),
    [
        (trial_project.CommandEnd(5, None, "the channel can't be reached"), None, "not tried", "can't be reached"),
        (trial_project.CommandEnd(4, None, "bytes differ"), None, "failed", "bytes differ"),
        (trial_project.CommandEnd(0, {"packages": 3, "source": "wheels"}, ""),
         trial_project.CommandEnd(0, {"results": [{"id": "a.b", "status": "passed", "finding": ""}]}, ""), "passed",
         "proves the wheel lock, not the conda lock; doctor --level quick: 1 checks passed"),
        (trial_project.CommandEnd(0, {"packages": 3, "source": "channel"}, ""),
         trial_project.CommandEnd(1, {"results": [{"id": "a.b", "status": "failed", "finding": "bad"}]}, ""), "failed",
         "a.b: bad"),
    ],
)  # fmt: skip
def test_an_environment_of_this_machines_variant_decides(project, relocked, monkeypatch, create, doctor, status, words):
    before = files(project)
    monkeypatch.setattr(module, "guess_device", lambda platform: ("cpu", "no driver"))
    monkeypatch.setattr(trial_project, "ask", lambda copy, what, *rest: create if what == "create" else doctor)
    found = freshen(project, FreshenRequest(NOW, WEEKS), Silent())
    by_variant = {item.variant: item for item in found.installed}
    assert (by_variant["linux-64-cpu"].status, by_variant["linux-64-cuda"].words) == (status, "no driver")
    assert words in by_variant["linux-64-cpu"].words
    assert "this machine is linux-64" in by_variant["osx-arm64-data"].words
    assert found.written is (status != "failed") and (files(project) == before) is (status == "failed")


def test_files_are_taken_over_together_or_not_at_all(project, monkeypatch):
    before = files(project)
    with trial_project.trial_project(project) as copy:
        for name in ("environment.yml", "locks/sizes.json"):
            (copy / name).write_text("newer")
        (copy / "locks/pip-linux-64.txt").unlink()
        changed, gone = trial_project.changes(project, copy)
        assert (changed, gone) == (["environment.yml", "locks/sizes.json"], ["locks/pip-linux-64.txt"])
        real, count = os.replace, []

        def replace(source, target):
            if str(source).endswith(".partial"):
                count.append(target)
                if len(count) == 2:
                    raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="No space left"):
            trial_project.take_over(project, copy, changed, gone)
        assert files(project) == before
        monkeypatch.setattr(os, "replace", real)
        trial_project.take_over(project, copy, changed, gone)
    after = files(project)
    assert set(before) - set(after) == {"locks/pip-linux-64.txt"} and after["environment.yml"] == b"newer"


@pytest.mark.parametrize("text", ["14", "d", "-3d", "2y", "", "1.5d", "9999999d"])
def test_an_age_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="expected a number with d, h or w"):
        parse_age(text, "--min-age")


def test_ages_are_read():
    found = [timedelta(seconds=parse_age(text, "--min-age")) for text in ("14d", " 36h", "2w")]
    assert found == [WEEKS, timedelta(hours=36), WEEKS]


def test_beyond_a_bound_is_what_it_refuses():
    bounds = ("<2.11", ">=2", "3.11.*", "==1.0", "<=3", ">1", "cuda*")
    assert [beyond(bound) for bound in bounds] == [">=2.11", "<2", "!=3.11.*", "!=1.0", ">3", "<=1", None]
    environment = read_environment(PROJECT / "environment.yml")
    after = rewritten(environment, ENTRIES["torchvision-0.26"], ">=0.26", [ENTRIES["torch-2.11"]])
    assert str(after.conda_spec("torchvision")) == "torchvision >=0.20.1,>=0.26"
    assert str(after.conda_spec("pytorch")) == "pytorch >=2.5.1 cuda*"
    assert str(rewritten(environment, ENTRIES["peft-0.18"], "<0.18", []).pip_spec("peft")) == "peft <0.18"


class Bench(probe_bounds._Bench):
    """A bench whose environments say what the test wants; solving is real where the test doesn't set it."""

    said: dict[str, dict[str, str]]

    def _results(self, environment, checks, entry=None):
        if entry is not None:
            self.text = environment
        return self.said["beyond" if entry else "kept"]

    def _source(self):
        return "wheels"


@pytest.fixture
def bench(project, frozen) -> Bench:
    """A bench on the frozen metadata."""
    return Bench(project, FreshenRequest(NOW, WEEKS, frozen=frozen), Silent())


PASSED, FAILED = "passed", "failed: 'bool' object is not callable"


@pytest.mark.parametrize(
    ("kept", "now", "verdict", "decided", "words"),
    [
        (PASSED, FAILED, HOLDS, ("data.webdataset",), "webdataset 1.0.2: 'bool' object is not callable"),
        (PASSED, PASSED, LIFT, ("data.webdataset",), "webdataset 1.0.2 passes"),
        (FAILED, FAILED, OPEN, (), "doesn't pass on this machine with the bound, either"),
        (PASSED, "not_run: no GPU", OPEN, (), "data.webdataset"),
    ],
)
def test_the_check_that_the_ledger_names_decides(bench, kept, now, verdict, decided, words):
    bench.said = {"kept": {"data.webdataset": kept}, "beyond": {"data.webdataset": now}}
    found = bench.verdict(ENTRIES["webdataset-0.2.88"], list(ENTRIES.values()))
    assert (found.verdict, found.decided_by) == (verdict, decided) and words in found.words
    assert "    - webdataset >=0.2.88\n" in bench.text


@pytest.mark.slow
def test_what_a_machine_cannot_decide_is_said(bench):
    bench.said = {"kept": {}, "beyond": {}}
    everything = list(ENTRIES.values())
    found = {
        name: bench.verdict(ENTRIES[name], everything) for name in ("torch-cuda-build", "python-3.11", "torch-2.11")
    }
    assert {item.verdict for item in found.values()} == {OPEN}
    assert "is a build, not a version" in found["torch-cuda-build"].words
    assert re.match(
        r"python 3\.1\d\.\d+ solves.*needs the doctor, but this machine reaches no channel", found["python-3.11"].words
    )
    assert re.match(
        r"pytorch 2\.1\d.*with torchvision-0\.26 lifted, too|nothing beyond it solves", found["torch-2.11"].words
    )


def test_an_unknown_bound_is_named_with_those_there_are(project):
    with pytest.raises(InputError, match=r"no entry torch-9; |no entry torch-9"):
        probe_bounds.probe(project, FreshenRequest(NOW, WEEKS), ["torch-9"], Silent())


def repack(path: Path, change) -> str:
    """Change packed JSON in place; return its new SHA-256."""
    content = json.loads(zstandard.ZstdDecompressor().decompress(path.read_bytes(), 1 << 28))
    change(content)
    path.write_bytes(zstandard.compress(json.dumps(content, sort_keys=True).encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def later(folder: Path) -> Path:
    """Metadata as it will be: an older and a young release of a conda and of a pip package more than now."""
    shutil.copytree(PROJECT / "metadata", folder)

    def channel(content: dict) -> None:
        name, record = next(
            item for item in sorted(content["packages.conda"].items()) if item[1]["name"] == "omegaconf"
        )
        for version, day in (("98.0", "2026-11-01"), ("99.0", "2026-11-25")):
            stamp = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() * 1000)
            new = {**record, "version": version, "timestamp": stamp, "sha256": version[:2] * 32}
            content["packages.conda"][name.replace(record["version"], version)] = new

    def index(content: dict) -> None:
        project = content["webdataset"]
        for version, day in (("0.2.86.1", "2026-11-01"), ("0.2.86.2", "2026-11-25")):
            project["files"].append(
                {"name": f"webdataset-{version}-py3-none-any.whl", "requires-python": ">=3.8", "size": 5,
                 "sha256": version.replace(".", "")[-4:] * 16, "uploaded": f"{day}T00:00:00"}
            )  # fmt: skip
            project["releases"][version] = project["releases"]["0.2.86"]

    manifest = json.loads((folder / "manifest.json").read_text())
    for name, change in {"conda-forge/noarch/repodata.json.zst": channel, pip_index.PATH: index}.items():
        manifest["files"][name]["sha256"] = repack(folder / name, change)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.e2e
def test_from_metadata_to_a_later_one_and_back(project, tmp_path):
    """Old enough releases are taken, younger ones are not; what is withheld again goes, and the files are as before."""
    request = FreshenRequest(NOW, WEEKS, frozen=later(tmp_path / "later"), sources=(), only=("linux-64-cpu",))
    before = files(project)
    found = freshen(project, request, Silent())
    assert found.ok and found.written, found.refusals
    text = found.to_markdown()
    assert "98.0" in text and "0.2.86.1" in text and "99.0" not in text and "0.2.86.2" not in text
    changed = {name for name, content in files(project).items() if before.get(name) != content}
    assert changed == set(found.changed) and "locks/linux-64-cpu-conda-lock.yml" in changed
    assert "webdataset==0.2.86.1 " in (project / "locks/pip-linux-64-cpu.txt").read_text()
    again = freshen(
        project, FreshenRequest(NOW, WEEKS, frozen=PROJECT / "metadata", sources=(), only=request.only), Silent()
    )
    assert again.ok and again.written and files(project) == before
