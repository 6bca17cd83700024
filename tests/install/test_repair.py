"""A repair touches what differs and nothing else, and says what it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import receipt

from .conftest import Site, make_wheel, pin
from .test_atomicity import complete


def tree(prefix: Path) -> dict[str, tuple]:
    return {
        str(path.relative_to(prefix)): (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino)
        for path in prefix.rglob("*")
        if not path.is_dir() and (s := path.lstat())
    }


def test_a_good_prefix_is_not_touched(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    before = tree(prefix)
    result = site.install(prefix, repair=True)
    assert (result.status, result.repaired) == ("up-to-date", ())
    assert tree(prefix) == before and site.leftovers() == []


def test_everything_that_differs_is_put_right_and_told(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    right = {name: facts[:2] for name, facts in tree(prefix).items()}
    (prefix / "share/data/a.txt").unlink()
    plain = prefix / "share/prefixed/plain.txt"
    plain.unlink()
    plain.write_text("PLAIN\n")
    (prefix / "bin/prefixed").write_text("#!/bin/sh\necho elsewhere\n")
    (prefix / "bin/prefixed").chmod(0o644)
    (prefix / "lib/liblinked.so").unlink()
    (prefix / "lib/liblinked.so").symlink_to("/etc/passwd")
    shutil.rmtree(packages.site_packages(prefix) / "purepy")
    (packages.site_packages(prefix) / "purepy").write_text("a file in place of a folder")
    (prefix / "lib/libx264.so.164").unlink()
    (prefix / "lib/libx264.so.164").mkdir()
    (prefix / "conda-meta/data-3-0.json").write_text("{")
    (prefix / "bin/activate-cogvideo-sat").write_text("echo hijacked\n")
    (prefix / "thesis.tex").write_text("mine")
    result = site.install(prefix, repair=True)
    assert result.status == "repaired" and complete(prefix) and site.leftovers() == []
    told = {entry.partition(" (")[0]: entry.partition(" (")[2].rstrip(")") for entry in result.repaired}
    short = packages.host_python_spec()[1]
    assert told.pop(f"lib/python{short}/site-packages/purepy/__init__.py") == "missing"
    assert {name: why for name, why in told.items() if "purepy" not in name} == {
        "share/data/a.txt": "missing",
        "share/prefixed/plain.txt": "changed",
        "bin/prefixed": "other permissions",
        "lib/liblinked.so": "leads elsewhere",
        "lib/libx264.so.164": "not of the right kind",
        "conda-meta/data-3-0.json": "changed",
        "bin/activate-cogvideo-sat": "changed",
    }
    assert (prefix / "thesis.tex").read_text() == "mine"
    now = {name: facts[:2] for name, facts in tree(prefix).items() if name != "thesis.tex"}
    assert {name for name in right if now.get(name) != right[name]} <= {"etc/cogvideo-sat-env/receipt.json"}
    assert site.install(prefix, repair=True).repaired == ()


@pytest.mark.slow
def test_a_file_that_was_changed_through_its_hard_link_is_put_right_with_the_cache(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    with open(prefix / "share/data/a.txt", "w") as stream:  # the file of the cache is the same one
        stream.write("poison\n")
    result = site.install(prefix, repair=True)
    assert result.repaired == ("share/data/a.txt (changed)",)
    assert (prefix / "share/data/a.txt").read_text() == "a\n"
    site.install(site.home / "second")
    assert (site.home / "second/share/data/a.txt").read_text() == "a\n"


def test_another_build_that_conda_put_in_is_taken_out_and_packages_of_the_users_stay(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    meta = prefix / "conda-meta"
    for name, version, file in (("data", "4", "share/data/new.txt"), ("mine", "1", "share/mine.txt")):
        (prefix / file).write_text("x")
        record = {"name": name, "version": version, "build": "0", "files": [file], "paths_data": {"paths": []}}
        (meta / f"{name}-{version}-0.json").write_text(json.dumps(record))
    (meta / "data-3-0.json").unlink()
    result = site.install(prefix, repair=True)
    assert set(result.repaired) == {
        "conda-meta/data-3-0.json (missing)",
        "share/data/new.txt (of data 4, which is not in the lock)",
        "conda-meta/data-4-0.json (not in the lock)",
    }
    assert (prefix / "share/mine.txt").exists() and (meta / "mine-1-0.json").exists() and complete(prefix)


def test_the_users_variables_and_condas_history_stay(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    (prefix / "conda-meta/state").write_text('{"env_vars": {"MINE": "1"}}')
    with open(prefix / "conda-meta/history", "a") as stream:
        stream.write("==> later <==\n")
    assert site.install(prefix, repair=True).repaired == ()
    assert "MINE" in (prefix / "conda-meta/state").read_text()


def test_a_pip_file_is_put_right(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    wheel = make_wheel(tmp_path / "wheels", "tiny", "0.1", {"tiny.py": "X = 1\n"})
    pinned = pin(wheel, "tiny", "0.1")
    cached = site.cache / "artefacts" / pinned.sha256[:2] / pinned.sha256 / wheel.name
    cached.parent.mkdir(parents=True)
    shutil.copy(wheel, cached)
    site.install(prefix, [pinned])
    (packages.site_packages(prefix) / "tiny.py").write_text("X = 2\n")
    result = site.install(prefix, [pinned], repair=True)
    assert [entry.rpartition("/")[2] for entry in result.repaired] == ["tiny.py (changed)"]
    assert (packages.site_packages(prefix) / "tiny.py").read_text() == "X = 1\n"
    assert receipt.missing(prefix, receipt.read(prefix)) == []


def test_only_what_was_made_from_the_same_lock_is_repaired(site: Site) -> None:
    with pytest.raises(PrefixError, match="has no receipt"):
        site.install(site.home / "env", repair=True)
    assert not (site.home / "env").exists()
    site.install(site.home / "env")
    before = tree(site.home / "env")
    with pytest.raises(PrefixError, match="was made from another lock") as refused:
        site.install(site.home / "env", artefacts=site.artefacts[:2], repair=True)
    assert f"update -p {site.home / 'env'}" in refused.value.remedy
    assert tree(site.home / "env") == before and os.listdir(site.home) == ["env"]


def test_a_moved_prefix_is_recognised_and_put_right(site: Site, tmp_path: Path) -> None:
    """HPC workspaces are renamed when they are renewed; every file that names the old place has to follow."""
    wheel = make_wheel(tmp_path / "wheels", "tiny", "0.1", {"tiny.py": "def main(): pass\n"}, TINY)
    pinned = pin(wheel, "tiny", "0.1")
    cached = site.cache / "artefacts" / pinned.sha256[:2] / pinned.sha256 / wheel.name
    cached.parent.mkdir(parents=True)
    shutil.copy(wheel, cached)
    old, new = site.home / "a", site.home / "b"
    site.install(old, [pinned])
    (old / "thesis.tex").write_text("mine")
    old.rename(new)
    result = site.install(new, [pinned])
    assert result.status == "repaired" and any(f"was made at {old}" in text for text in site.progress.said)
    assert {"bin/purepy (changed)", "bin/tiny (changed)", "bin/activate-cogvideo-sat (changed)"} <= set(result.repaired)
    assert result.unowned == ("thesis.tex",)
    for path in new.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert f"{old}/".encode() not in path.read_bytes(), path
    assert subprocess.run([new / "bin/purepy"], capture_output=True, text=True, check=True).stdout == "purepy main\n"
    assert receipt.read(new)["prefix"] == str(new) and site.install(new, [pinned]).status == "up-to-date"
    assert site.install(new, [pinned], repair=True).status == "up-to-date"


def test_a_moved_prefix_of_an_older_version_is_recognised_by_its_activation_script(site: Site) -> None:
    old, new = site.home / "a", site.home / "b"
    site.install(old)
    path = old / receipt.PATH
    found = json.loads(path.read_text())
    del found["prefix"]
    path.write_text(json.dumps(found))
    assert site.install(old).status == "up-to-date"
    shutil.copytree(old, new, symlinks=True)
    assert site.install(new, repair=True).status == "repaired" and site.install(new).status == "up-to-date"
    (site.home / "link").symlink_to(site.home)
    assert site.install(site.home / "link" / "b").status == "up-to-date"  # another name, no move


TINY = "[console_scripts]\ntiny = tiny:main\n"


def test_a_repair_after_foreign_pip_installs_ends_in_the_locks_prefix(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    right = set(tree(prefix))
    folder = packages.site_packages(prefix)
    shutil.rmtree(folder / "purepy")
    shutil.rmtree(folder / "purepy-2.0.dist-info")
    mine = {"purepy/__init__.py": "new", "purepy/only_new.py": "x", "purepy/__pycache__/only_new.cpython-39.pyc": "x"}
    _pip_lays_out(folder, "purepy", "3.0", mine)
    _pip_lays_out(folder, "cowsay", "1.0", {"cowsay/__init__.py": "moo", "../../../bin/cowsay": "#!/bin/sh\n"})
    (folder / "~urepy").mkdir()
    (folder / "~urepy/left.py").write_text("x")
    (folder / "purepy/note.txt").write_text("of nobody")
    (folder / "mine.pth").write_text("import os\n")
    (folder / "cowsay/__pycache__").mkdir()
    (folder / "cowsay/__pycache__/__init__.cpython-39.pyc").write_text("made while it ran")
    (prefix / "thesis.tex").write_text("mine")
    result = site.install(prefix, repair=True)
    short = f"lib/python{packages.host_python_spec()[1]}/site-packages"
    assert {path.name for path in folder.glob("purepy*")} == {"purepy", "purepy-2.0.dist-info"}
    assert result.added == ("cowsay 1.0 (pip)",) and result.unowned == ("thesis.tex",)
    aside, info = Path(result.aside_folder), f"{short}/cowsay-1.0.dist-info"
    assert set(result.aside) == set(tree(aside)) == {
        "bin/cowsay", f"{short}/cowsay/__init__.py", f"{short}/cowsay/__pycache__/__init__.cpython-39.pyc",
        f"{info}/METADATA", f"{info}/RECORD", f"{short}/mine.pth", f"{short}/purepy/note.txt",
    }  # fmt: skip
    assert aside.parent == site.home and (aside / "bin/cowsay").read_text() == "#!/bin/sh\n"
    assert f"{short}/purepy/only_new.py (of purepy 3.0, which is not in the lock)" in result.repaired
    assert set(tree(prefix)) - right == {"thesis.tex"} and not (folder / "cowsay").exists()
    assert complete(prefix) and site.install(prefix, repair=True).status == "up-to-date"


def _pip_lays_out(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
