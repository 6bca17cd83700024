"""Bytecode of noarch packages: made once, linked from then on, and never used for a source that it isn't of."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import packages

from .conftest import Site
from .test_atomicity import complete
from .test_link import options, own_channel


def bytecode(prefix: Path) -> dict[str, Path]:
    site_packages = packages.site_packages(prefix)
    return {str(p.relative_to(prefix)): p for p in sorted(site_packages.glob("purepy/**/*.pyc"))}


def kept(site: Site) -> list[Path]:
    return sorted((site.cache / "bytecode").rglob("*.pyc"))


def imported(prefix: Path) -> tuple[str, str]:
    """Import purepy with nothing written; return the path its code names, and what Python says of its bytecode."""
    code = "import purepy; print(purepy.main.__code__.co_filename); purepy.main()"
    child = subprocess.run([prefix / "bin/python", "-B", "-v", "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in child.stderr.splitlines() if "purepy" in line and line.startswith("#")]
    return child.stdout, "\n".join(said)


def test_a_second_prefix_links_the_same_bytecode_and_python_takes_it(site: Site) -> None:
    one, two = site.home / "one", site.home / "two"
    site.install(one)
    site.progress.titles.clear()
    site.install(two)
    assert "Compiling bytecode" not in site.progress.titles
    first, second = bytecode(one), bytecode(two)
    assert len(first) == 2 and first.keys() == second.keys()
    assert all(os.path.samefile(first[name], second[name]) for name in first)
    records = [json.loads((p / "conda-meta/purepy-2.0-pyhd8ed1ab_0.json").read_text()) for p in (one, two)]
    owned = [[e for e in r["paths_data"]["paths"] if e["path_type"] == "pyc_file"] for r in records]
    assert records[0]["files"] == records[1]["files"] and owned[0] == owned[1] and len(owned[0]) == 2
    for prefix in (one, two):
        printed, said = imported(prefix)
        assert printed.startswith(f"{packages.site_packages(prefix)}/purepy/__init__.py\n")
        assert "matches" in said and "code object from" in said and "stale" not in said


def test_a_source_changed_in_a_prefix_gets_bytecode_of_its_own_everywhere(site: Site) -> None:
    site.install(site.home / "one")
    source = packages.site_packages(site.home / "one") / "purepy/__init__.py"
    source.write_text("def main():\n    print('edited, and longer')\n")  # in place: the cache has the same file
    assert imported(site.home / "one")[0].endswith("edited, and longer\n")
    site.install(site.home / "two")
    assert imported(site.home / "two")[0].endswith("purepy main\n") and complete(site.home / "two")


def test_bytecode_of_another_source_is_not_linked(site: Site) -> None:
    site.install(site.home / "one")
    (noted,) = (site.cache / "bytecode").glob("*/purepy-*.json")
    facts = json.loads(noted.read_text())
    for fact in facts.values():
        fact[3] -= 10  # its header names a source that is ten seconds older
    noted.write_text(json.dumps(facts))
    site.progress.titles.clear()
    site.install(site.home / "two")
    assert "Compiling bytecode" in site.progress.titles
    assert "matches" in imported(site.home / "two")[1]
    site.progress.titles.clear()
    site.install(site.home / "three")
    assert "Compiling bytecode" not in site.progress.titles


@pytest.mark.parametrize("full", [False, True])
def test_changed_bytecode_is_noticed_and_made_again(site: Site, full: bool) -> None:
    site.install(site.home / "one")
    before = {path: path.read_bytes() for path in kept(site)}
    for path, content in before.items():
        stat = path.stat()
        with open(path, "r+b") as stream:
            stream.write(content[:16] + bytes(len(content) - 16))
        if full:  # a change that hides its time is found by --verify full only
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    site.install(site.home / "two", full=full)
    assert imported(site.home / "two")[0].endswith("purepy main\n")
    assert {path: path.read_bytes() for path in kept(site)} == before
    assert sorted(p.read_bytes() for p in bytecode(site.home / "two").values()) == sorted(before.values())


def test_repair_finds_nothing_in_a_good_prefix_and_mends_bytecode(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    assert site.install(prefix, repair=True).status == "up-to-date"
    name, path = next(iter(bytecode(prefix).items()))
    path.unlink()
    assert [line.split(" ")[0] for line in site.install(prefix, repair=True).repaired] == [name]
    assert "matches" in imported(prefix)[1]


def test_a_killed_keep_leaves_nothing_that_counts(site: Site) -> None:
    site.install(site.home / "one")
    (folder,) = (path for path in (site.cache / "bytecode").glob("*/purepy-*") if path.is_dir())
    folder.rename(folder.with_name(f".{folder.name}.partial"))
    site.install(site.home / "two")
    assert [path.name for path in folder.parent.glob(".*")] == [] and folder.is_dir()
    assert "matches" in imported(site.home / "two")[1]


def test_bytecode_that_python_itself_makes_while_a_prefix_is_made_is_not_kept(site: Site, tmp_path: Path) -> None:
    """A .pth is run whenever Python starts (setuptools has one); its bytecode would name the staging directory."""
    files = {
        "site-packages/hook.py": packages.Text("X = 1\n"),
        "site-packages/hook.pth": packages.Text("import hook\n"),
    }
    made = options(own_channel(tmp_path / "own", packages.Spec("hook", noarch="python", files=files)))
    python = site.artefact("python")
    given = {
        "artefacts": [*made["artefacts"], python],
        "locate": lambda a: site.locate(a) if a == python else made["locate"](a),
    }
    prefix = site.home / "env"
    site.install(prefix, **given)
    (compiled,) = packages.site_packages(prefix).glob("__pycache__/hook.*.pyc")
    assert b".satenv-new-" not in compiled.read_bytes() and b"hook.py" in compiled.read_bytes()
    assert site.install(prefix, repair=True, **given).status == "up-to-date"
