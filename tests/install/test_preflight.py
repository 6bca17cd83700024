"""What is asked before the work: prefix, platform, cache, TMPDIR; and mount points, which are filled in place."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import preflight, receipt, staging
from faults.conftest import disk as disk  # a fixture

from .conftest import Site
from .test_atomicity import complete

pytestmark = pytest.mark.slow

Disk = Callable[[str], Path]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("new\nline", "control characters"),
        ("tab\there", "control characters"),
        ("esc\x1b[31m", "control characters"),
        ("del\x7f", "control characters"),
        ("a:b", "':'"),
        (os.fsdecode(b"latin-\xe9"), "must be UTF-8"),
        ("n" * 240, "its last part must have 1 to"),
        ("n" * 300 + "/x", "too long"),
        ("/".join(["d" * 200] * 20), "too long"),
    ],
)
@pytest.mark.fault("prefix-name", "error", "says what is wrong with the name, before anything is fetched")
def test_a_name_that_can_not_be_is_refused(site: Site, name: str, said: str) -> None:
    with pytest.raises(PrefixError, match=said):
        site.install(site.home / name)
    assert os.listdir(site.home) == [] and site.server.requests == []


def test_what_is_not_ours_is_refused_before_anything_is_fetched(site: Site) -> None:
    (site.home / "file").write_text("x")
    (site.home / "mine").mkdir()
    (site.home / "mine/thesis.tex").write_text("x")
    for prefix, said in (("file/below", "is a file"), ("mine", "not empty; it is left alone")):
        with pytest.raises(PrefixError, match=said):
            preflight.require_prefix(site.home / prefix)
    assert site.server.requests == []


@pytest.mark.fault("noexec", "error", "names the file system and the option or variable to choose another with")
def test_noexec_is_named_before_the_work(site: Site, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    place = disk("size=1m,noexec")
    with pytest.raises(PrefixError, match=f"{place} is mounted noexec") as caught:
        site.install(place / "env")
    assert "-p" in caught.value.remedy
    with pytest.raises(PrefixError, match=f"{place} is mounted noexec") as caught:
        site.install(site.home / "env", cache=place / "cache")
    assert "SATENV_CACHE" in caught.value.remedy
    assert site.server.requests == [] and os.listdir(site.home) == []


@pytest.mark.fault("tmpdir-full", "error", "names TMPDIR, before anything is fetched")
def test_a_full_tmpdir_is_named_before_the_work(site: Site, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    place = disk("size=64k")
    (place / "filler").write_bytes(bytes(64 * 1024))
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with pytest.raises(PrefixError, match=f"{place}: no space left for temporary files"):
        site.install(site.home / "env")
    assert site.server.requests == [] and os.listdir(site.home) == []


@pytest.mark.fault("mount-point", "environment", "an empty mount point is filled in place; after a failure it is empty")
def test_a_mount_point_is_filled_in_place(site: Site, disk: Disk) -> None:
    prefix = disk("size=64m")

    def fail(staged: Path) -> None:
        assert staged.parent == prefix, "made on its own file system"
        raise PrefixError("no", None)

    with pytest.raises(PrefixError, match="^no$"):
        site.install(prefix, linked=fail)
    assert os.listdir(prefix) == []
    assert site.install(prefix).status == "created" and complete(prefix)
    assert subprocess.run([prefix / "bin/purepy"], capture_output=True, text=True).stdout == "purepy main\n"
    assert site.install(prefix).status == "up-to-date"
    (prefix / "share/data/a.txt").unlink()
    assert site.install(prefix, repair=True).status == "repaired" and complete(prefix)
    with pytest.raises(PrefixError, match="mount point with another environment"):
        site.install(prefix, artefacts=site.artefacts[:1], replace=True)
    assert complete(prefix) and not [name for name in os.listdir(prefix) if name.startswith(".")]


@pytest.mark.fault("mount-point", "environment", "an empty mount point is filled in place; after a failure it is empty")
@pytest.mark.parametrize("kill", [1, 3])
def test_a_kill_while_a_mount_point_is_filled_is_recognised(
    site: Site,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    kill: int,
) -> None:
    prefix = disk("size=64m")
    count = 0
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        if self.parent.parent == prefix and ".satenv-new-" in str(self):
            count += 1
            if count > kill:
                os._exit(9)
        return real(self, target)

    child = os.fork()
    if child == 0:
        Path.rename = rename  # type: ignore[method-assign]
        try:
            site.install(prefix)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert staging.siblings(prefix, staging.FILLING) and receipt.read(prefix) is None
    assert site.install(prefix).status == "created" and complete(prefix)
    assert not [name for name in os.listdir(prefix) if name.startswith(".")]


@pytest.mark.fault("cleanup-failed", "environment", "a warning that names what is left; later runs go on")
def test_a_clean_up_that_fails_is_a_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root-owned __pycache__ in the old environment: what was done is done."""
    prefix = site.home / "env"
    site.install(prefix)
    fewer = [a for a in site.artefacts if a.name != "data"]
    real = shutil.rmtree

    def refuse(path: Path, *rest: object, **options: object) -> None:
        if ".satenv-trash-" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *rest, **options)

    monkeypatch.setattr(staging.shutil, "rmtree", refuse)
    assert site.install(prefix, artefacts=fewer, replace=True).status == "replaced"
    assert any("warning: " in text and "can't be deleted" in text for text in site.progress.said)
    assert site.install(prefix, artefacts=fewer).status == "up-to-date" and complete(prefix)
    monkeypatch.undo()
    assert site.install(prefix, artefacts=fewer).status == "up-to-date" and site.leftovers() == []
