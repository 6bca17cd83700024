"""`satenv cache`: what takes the room, what deleting really frees, and that running commands lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.create.cache_prune import DAY, list_cache, prune_cache
from install.conftest import Site, sample, sample_with_pip, site  # noqa: F401 - fixtures
from install.test_atomicity import complete

pytestmark = pytest.mark.slow

SRC = Path(__file__).resolve().parents[2] / "src"
LEFT = ("tmp/x/half", "pip-abc/half", "pkgs/.data-3-0.1234.partial/half", "pkgs/.data-3-0.1234.gone/half",
        "pkgs/data-3-0.1234.proof.json", "bundles/unpack-1/half", "artefacts/aa/bb/data.conda.partial")  # fmt: skip


def used(folder: Path) -> int:
    """Return the bytes that a folder really takes, each inode once."""
    return sum(
        {
            (s.st_dev, s.st_ino): s.st_blocks * 512 for p in folder.rglob("*") if not p.is_dir() and (s := p.lstat())
        }.values()
    )


def age(cache: Path, days: float) -> None:
    then = time.time() - days * 86400
    for path in cache.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def leave(cache: Path) -> None:
    for name in LEFT:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("x" * 5000)


def test_the_list_counts_each_file_once_and_says_what_deleting_would_free(site: Site) -> None:  # noqa: F811
    site.install(site.home / "env")
    leave(site.cache)
    found = {kind["kind"]: kind for kind in list_cache(site.cache).to_json()["kinds"]}
    assert list_cache(site.cache).taken == used(site.cache)
    assert found["extracted packages"]["entries"] == len(site.artefacts) and found["leftovers"]["entries"] == len(LEFT)
    shared = found["extracted packages"]["bytes"] - found["extracted packages"]["freed_bytes"]
    assert shared > 0  # the environment has those, too
    shutil.rmtree(site.home / "env")
    found = {kind["kind"]: kind for kind in list_cache(site.cache).to_json()["kinds"]}
    assert found["extracted packages"]["freed_bytes"] == found["extracted packages"]["bytes"]


def test_prune_deletes_what_is_old_frees_what_it_says_and_everything_is_made_again(site: Site) -> None:  # noqa: F811
    site.install(site.home / "env")
    leave(site.cache)
    before = used(site.cache)
    assert {kind for kind, _ in prune_cache(site.cache, 30 * DAY).removed} == {"leftovers"}
    assert not any((site.cache / name).exists() for name in LEFT)
    shutil.rmtree(site.home / "env")
    told = prune_cache(site.cache, 0, dry_run=True)
    before = used(site.cache)
    done = prune_cache(site.cache, 0)
    assert done.removed == told.removed and done.freed == told.freed == before - used(site.cache)
    assert {kind for kind, _ in done.removed} == {"downloads", "extracted packages", "bytecode"}
    site.install(site.home / "env")
    assert complete(site.home / "env")


def test_what_is_used_or_locked_is_kept_however_old(site: Site, tmp_path: Path) -> None:  # noqa: F811
    site.install(site.home / "env")
    age(site.cache, 90)
    first = site.artefacts[:1]
    site.install(site.home / "other", artefacts=first)  # this one is used now
    lock = tmp_path / "my.lock"
    lock.write_text(f"@EXPLICIT\nhttps://conda.example.org/x.conda#{site.artefacts[1].sha256}\n")
    removed = [name for kind, name in prune_cache(site.cache, 30 * DAY, [lock]).removed if "extracted" in kind]
    kept = {a.name for a in site.artefacts[:2]}
    assert {name.split("-")[0] for name in removed} == {a.name for a in site.artefacts} - kept
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="empty: has no SHA-256"):
        prune_cache(site.cache, 0.0, [tmp_path / "empty"])


@pytest.mark.fault("cache-pruned", "environment", "what a running command uses is kept; the rest waits for it")
def test_nothing_that_a_running_command_uses_is_deleted(site: Site) -> None:  # noqa: F811
    site.install(site.home / "env")
    code = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from pathlib import Path\n"
        "from cogvideo_sat_env.base.cache_use import in_use\n"
        "from cogvideo_sat_env.base.progress import Silent\n"
        "with in_use(Path(sys.argv[1]), Silent()): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, site.cache], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        done = prune_cache(site.cache, 0)
        assert done.in_use and done.removed == () and "Another command uses the cache" in done.to_text()
        age(site.cache, 40)
        assert prune_cache(site.cache, 0, dry_run=True).removed
        child.stdin.close()
    assert not prune_cache(site.cache, 0).in_use


def test_files_of_others_are_listed_and_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    age(tmp_path, 400)
    assert prune_cache(tmp_path, 0.0).removed == () and (tmp_path / "mine" / "thesis.tex").exists()
    assert [kind[0] for kind in list_cache(tmp_path).kinds] == ["other"]


def test_the_command_line_gives_text_and_json(site: Site, tmp_path: Path) -> None:  # noqa: F811
    from click.testing import CliRunner

    from cogvideo_sat_env.cli import cli

    site.install(site.home / "env")
    locks = [tmp_path / "one.lock", tmp_path / "two.lock"]
    for path, artefact in zip(locks, site.artefacts, strict=False):
        path.write_text(artefact.sha256)
    variables = {"SATENV_CACHE": str(site.cache)}

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli, ["cache", *map(str, arguments)], env=variables, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "extracted packages" in run("list") and json.loads(run("list", "--json"))["cache"] == str(site.cache)
    dry = json.loads(run("prune", "--older-than", "0d", "--dry-run", "--json", "--keep-locks", *locks))
    assert dry["dry_run"] and sum(entry["kind"] == "downloads" for entry in dry["removed"]) == len(site.artefacts) - 2
    with pytest.raises(InputError, match=r"--older-than '3 days': expected a number with d, h or w"):
        run("prune", "--older-than", "3 days")
