"""The manifest of a prefix: the same for the same environment, wherever and however it was made; any change is named."""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import packages
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.install import activation, package_manifest
from cogvideo_sat_env.report import prefix_manifest
from cogvideo_sat_env.report.prefix_manifest import Manifest, compare, make, read, write
from cogvideo_sat_env.source.wheels.interpreter import BUILD
from conftest import PROJECT, Created
from install.conftest import Site, make_wheel, pin

FAR = "far/" + "-".join(["a-path-that-no-kernel-takes-in-a-first-line"] * 3) + "/env"


def manifest(prefix: Path, full: bool = True) -> Manifest:
    return make(prefix, full=full, progress=Silent())


def install(site: Site, prefix: Path, **options: object) -> None:
    wheel = make_wheel(prefix.parents[1] / "wheels", "tiny", "0.1", {"tiny.py": "def main(): return {'a', 'b'} & {1}\n"},
                       "[console_scripts]\ntiny = tiny:main\n")  # fmt: skip
    site.install(prefix, [pin(wheel, "tiny", "0.1")], links=[wheel.parent.as_uri()], **options)


@pytest.mark.slow
def test_two_creates_have_one_manifest_whatever_path_time_umask_and_cache(site: Site, tmp_path: Path) -> None:
    near, far = site.home / "e", site.home / FAR
    install(site, near)
    before = os.umask(0o077)
    try:
        install(site, far, cache=tmp_path / "other")
    finally:
        os.umask(before)
    one, two = manifest(near), manifest(far)
    assert (far / "bin/purepy-script").read_text().startswith("#!/bin/sh\n'''exec'")  # the kernel's limit is passed
    assert (far / "bin/tiny").read_text().startswith("#!/bin/sh\n'''exec'")
    assert compare(one, two).to_text() == f"{len(one.entries):,} paths, all the same\n"
    assert one.to_text() == two.to_text() and one.to_json() == manifest(near, full=False).to_json()
    # what conda wrote the prefix into has the SHA-256 that its package lists
    record = json.loads((far / "conda-meta/prefixed-1.0-h0_0.json").read_text())
    own = {e["_path"]: e["sha256"] for e in record["paths_data"]["paths"] if e.get("prefix_placeholder")}
    assert len(own) == 2 and {path: two.entries[path].digest for path in own} == own
    kinds = {entry.kind for entry in one.entries.values()}
    assert kinds == {"file", "folder", "link", "bytecode"}


def test_bytecode_counts_by_what_it_does(site: Site) -> None:
    prefix = site.home / "env"
    install(site, prefix)
    before = manifest(prefix)
    folder = packages.site_packages(prefix)
    python = prefix / "bin" / "python"
    for path in folder.rglob("*.pyc"):
        path.unlink()  # not written into: other prefixes have the same file
    source = folder / "purepy/__init__.py"
    os.utime(source, (1, 1))
    subprocess.run([python, "-m", "compileall", "-q", folder], check=True)  # other stamps, absolute paths
    assert compare(before, manifest(prefix)).same
    (compiled,) = (folder / "purepy/__pycache__").glob("__init__.*.pyc")
    other = prefix.parent / "other.py"
    other.write_text("def main():\n    print('something else')\n")
    subprocess.run([sys.executable, "-c", f"import py_compile; py_compile.compile({str(other)!r}, {str(compiled)!r})"])
    found = compare(before, manifest(prefix))
    assert list(found.changed) == [str(compiled.relative_to(prefix))] and not found.same


def test_every_change_is_named_and_ends_with_exit_code_1(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    install(site, prefix)
    file = tmp_path / "env.manifest.bz2"
    write(manifest(prefix), file)
    program = prefix / "bin/prefixed"
    program.chmod(0o644)
    plain = prefix / "share/prefixed/plain.txt"
    plain.unlink()
    plain.write_text("plain!\n")
    (prefix / "share/data/a.txt").unlink()
    (prefix / "share/data/new\nline").write_text("mine\n")
    link = prefix / "lib/liblinked.so"
    link.unlink()
    link.symlink_to("/etc/passwd")
    found = compare(read(file), manifest(prefix, full=False))
    assert sorted(found.changed) == ["bin/prefixed", "lib/liblinked.so", "share/prefixed/plain.txt"]
    assert found.changed["bin/prefixed"] == "mode 0755 -> 0644"
    assert found.changed["lib/liblinked.so"] == "target liblinked.so.1 -> /etc/passwd"
    assert (list(found.missing), list(found.added)) == (["share/data/a.txt"], ["share/data/new\nline"])
    run = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env", "manifest", prefix.name, "--check", file, "-q"],
        capture_output=True, text=True, check=False, cwd=prefix.parent,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip
    assert run.returncode == 1 and "changed: bin/prefixed (mode 0755 -> 0644)\n" in run.stdout
    assert run.stdout.endswith(f"5 of {len(manifest(prefix).entries) + 1} paths differ\n")


def test_a_manifest_reads_back_as_text_packed_and_json(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    install(site, prefix)
    odd = prefix / "share"
    for name in ('"quoted"', "with space", "new\nline", "ü"):
        (odd / name).write_text("x")
    (odd / os.fsdecode(b"not-\xff-utf8")).write_text("x")
    (odd / "to").symlink_to("a b")
    whole = manifest(prefix)
    (tmp_path / "m.json").write_text(json.dumps(whole.to_json()))
    for name in ("m.txt", "m.bz2"):
        write(whole, tmp_path / name)
    for name in ("m.txt", "m.bz2", "m.json"):
        assert read(tmp_path / name) == whole, name


BAD = {
    "absent": (None, "no such file"),
    "lock": (b"version: 1\nmetadata: {}\n", "its first line isn't 'cogvideo-sat-env manifest 1'"),
    "newer": (b"cogvideo-sat-env manifest 7\n\n", "it has format 7; this program reads 1"),
    "short line": (b"cogvideo-sat-env manifest 1\n\nfile 0644\n", "can't be read as a manifest"),
    "twice": (b"cogvideo-sat-env manifest 1\n\nlink - - a b\nlink - - c b\n", "a path stands twice"),
    "json of another kind": (b'{"packages": []}', "can't be read as a manifest"),
    "not text": (b"\xff\xfe\0", "can't be read as a manifest"),
    "cut": (bz2.compress(b"cogvideo-sat-env manifest 1")[:-4], "it is cut off"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_manifest_is_refused(tmp_path: Path, name: str) -> None:
    content, why = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert name in caught.value.message and why in caught.value.message


def test_what_is_no_environment_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no conda-meta folder"):
        manifest(tmp_path)
    site.install(site.home / "env")
    (site.home / "env/conda-meta/data-3-0.json").write_text("{")
    with pytest.raises(InputError, match="data-3-0.json: can't be read as a record"):
        manifest(site.home / "env")


def test_a_moved_environment_is_not_the_same(site: Site) -> None:
    """Its scripts still lead to the old place."""
    site.install(site.home / "env")
    before = manifest(site.home / "env")
    shutil.copytree(site.home / "env", site.home / "copy", symlinks=True)
    shutil.rmtree(site.home / "env")
    assert "bin/prefixed" in compare(before, manifest(site.home / "copy")).changed


def test_bytecode_of_another_running_python_is_compared_by_its_place(site: Site) -> None:
    site.install(site.home / "env")
    there = manifest(site.home / "env")
    entries = {
        path: prefix_manifest.ManifestEntry(path, entry.kind, entry.mode, 1, "0" * 64)
        if entry.kind == "bytecode"
        else entry
        for path, entry in there.entries.items()
    }
    count = sum(entry.kind == "bytecode" for entry in entries.values())
    other = Manifest({**there.facts, "running_python": "3.11.99"}, entries)
    found = compare(other, there)
    assert found.same and found.skipped == count > 1
    assert "running_python: 3.11.99 in the manifest, none in the environment" in found.to_text()
    gone = Manifest(there.facts, {p: e for p, e in there.entries.items() if e.kind != "bytecode"})
    assert len(compare(other, gone).missing) == count
    assert len(compare(Manifest(there.facts, entries), there).changed) == count  # of the same Python all of it counts


def on_running_python(folder: Path, version: str, home: str) -> Path:
    """An environment as the wheels source makes it: Python's package is links to `home`, linked from a cache."""
    prefix, package = folder / "env", folder / f"cache/python-{version}-{BUILD}.0"
    for name in (prefix / "conda-meta", prefix / "bin", prefix / "etc/cogvideo-sat-env", package):
        name.mkdir(parents=True)
    (package / "pyvenv.cfg").write_text(f"home = {home}\nversion = {version}\nexecutable = {home}/python3.11\n")
    os.link(package / "pyvenv.cfg", prefix / "pyvenv.cfg")
    (prefix / "bin/python3.11").symlink_to(f"{home}/python3.11")
    sha256 = hashlib.sha256(version.encode()).hexdigest()
    paths = [{"_path": "pyvenv.cfg", "path_type": "hardlink", "sha256": sha256, "size_in_bytes": 1},
             {"_path": "bin/python3.11", "path_type": "softlink"}]  # fmt: skip
    facts = {name: os.lstat(package / name) for name in ("pyvenv.cfg",)}
    where = package_manifest.manifest_path(package.parent, package.name)
    package_manifest.write(where, package_manifest.PackageManifest(package, sha256, 1), facts, paths)
    record = {"name": "python", "version": version, "build": BUILD, "sha256": sha256, "paths_data": {"paths": paths},
              "extracted_package_dir": str(package), "url": f"file://{folder}"}  # fmt: skip
    (prefix / f"conda-meta/python-{version}-{BUILD}.json").write_text(json.dumps(record))
    line = f"+file://{folder}/linux-64::python-{version}-{BUILD}\n"
    (prefix / "conda-meta/history").write_text(f"==> 2026-01-01 00:00:00 <==\n# cmd: x\n{line}")
    entry = {"name": "python", "version": version, "build": BUILD, "sha256": sha256, "url": f"file://{folder}"}
    receipt = {"schema": 1, "variant": "wheels", "platform": "linux-64", "prefix": str(prefix), "made": version,
               "packages": [entry], "pip": [], "files": {}}  # fmt: skip
    (prefix / "etc/cogvideo-sat-env/receipt.json").write_text(json.dumps(receipt))
    return prefix


@pytest.mark.parametrize("full", [False, True])
def test_where_the_running_python_lies_and_its_patch_release_make_no_difference(tmp_path: Path, full: bool) -> None:
    one = manifest(on_running_python(tmp_path / "one", "3.11.7", "/usr/bin"), full)
    two = manifest(on_running_python(tmp_path / "other-host", "3.11.15", "/opt/python/bin"), full)
    assert one.entries == two.entries
    assert one.facts["running_python"] == "3.11.7" and "python" not in one.facts
    found = compare(one, two)
    assert found.same and list(found.notes) == ["running_python: 3.11.7 in the manifest, 3.11.15 in the environment"]


def test_bytecode_of_another_python_is_read_by_the_environments_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install(site.home / "env")
    here = manifest(site.home / "env")
    other = SimpleNamespace(version_info=(3, 1, 4), executable="/no/python")  # what this program runs on
    monkeypatch.setattr(prefix_manifest, "sys", other)
    assert manifest(site.home / "env") == here
    (site.home / "env/bin/python").unlink()
    with pytest.raises(MissingToolError, match="can't be run here, and this program's Python isn't"):
        manifest(site.home / "env")


COMMITTED = sorted((PROJECT / "locks").glob("manifest-*.txt.bz2"))


def test_the_committed_manifest_is_of_the_present_lock() -> None:
    assert COMMITTED
    for path in COMMITTED:
        facts = read(path).facts
        lock = PROJECT / "locks" / facts["lock"]
        assert path.name == f"manifest-{lock.stem}.txt.bz2"
        now = hashlib.sha256(lock.read_bytes()).hexdigest()
        assert facts["lock_sha256"] == now, f"make it again: satenv manifest PREFIX -o locks/{path.name}"


@pytest.mark.e2e
def test_the_environment_of_wheels_is_the_one_whose_manifest_is_committed(created: Created) -> None:
    lock = json.loads((created.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())["lock"]
    committed = PROJECT / "locks" / f"manifest-{Path(lock).stem}.txt.bz2"
    if committed not in COMMITTED:
        pytest.skip(f"no manifest is committed for {lock}")
    found = compare(read(committed), manifest(created.prefix, full=False))
    remedy = f"if that was meant: satenv manifest PREFIX -o locks/{committed.name}"
    # the program's own scripts aren't the lock's: they are as this version has them
    scripts = activation.load().scripts
    assert {name: (created.prefix / name).read_bytes() for name in scripts} == scripts
    others = set(found.changed) - {*scripts, *activation.TEMPLATES}
    assert not (others or found.missing or found.added), f"{found.to_text()[:4000]}\n{remedy}"
