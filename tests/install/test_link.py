"""What is linked: as conda, mamba and micromamba do it, and never over or through what is ours or another's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import packages
from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install import entry_points, own_files, workers
from cogvideo_sat_env.install.package_manifest import is_plain

from .conftest import CHANNEL, Site
from .test_atomicity import complete

PY = f"lib/python{packages.host_python_spec()[1]}/site-packages"
TAKEN = {"lib/same.txt": "two", "lib/needed.txt": "above", f"{PY}/clash.py": "X = 'three'\n", "bin/tool": None}
ODD = (
    packages.Spec("one", files={
        "lib/same.txt": packages.Text("one"),
        "opt/real/a": packages.Text("a"), "opt/link": packages.Link("real"), "bin/tool": packages.Text("plain"),
        ".hidden": packages.Text("h"), "share/a b/ü.txt": packages.Text("u"),
        f"{PY}/clash.py": packages.Text("X = 'one'\n"), "lib/needed.txt": packages.Text("one"),
    }),
    packages.Spec("two", files={"lib/same.txt": packages.Text("two"), "opt/real/b": packages.Text("b")}),
    packages.Spec("above", files={"lib/needed.txt": packages.Text("above")}, depends=["one >=1"]),
    packages.Spec("three", build="pyhd8ed1ab_0", noarch="python", entry_points=["tool = three:main"], files={
        "site-packages/three.py": packages.Text("def main():\n    print('three')\n"),
        "site-packages/clash.py": packages.Text("X = 'three'\n"),
        "python-scripts/helper.py": packages.Text("#!/bin/sh\n"), "share/three.py": packages.Text("Y = 1\n"),
        "site-packages/shipped.py": packages.Text("Z = 1\n"),
        f"site-packages/__pycache__/shipped.{sys.implementation.cache_tag}.pyc": packages.Binary(b"its own"),
    }),
    packages.Spec("empty"),
)  # fmt: skip


@pytest.fixture(scope="module")
def odd(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample channel with packages that get into each other's way."""
    root = tmp_path_factory.mktemp("odd") / "mirror"
    shutil.copytree(sample, root)
    return own_channel(root, *ODD)


def own_channel(folder: Path, *specs: packages.Spec) -> Path:
    for spec in specs:
        packages.make_package(spec, folder / "conda-forge", current_platform())
    return folder


def options(channel: Path) -> dict[str, Any]:
    artefacts = packages.artefacts(channel / "conda-forge", CHANNEL)
    return {"artefacts": artefacts, "locate": lambda a: (channel / a.channel_path).as_uri()}


def tree(prefix: Path) -> dict[str, tuple[str, object]]:
    """Return kind and content of everything in a prefix but its records; its own path is written as PREFIX."""
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(prefix.rglob("*")):
        name, mode = str(path.relative_to(prefix)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(mode):
            found[name] = ("folder", None)
        elif not name.startswith(("conda-meta/", "etc/cogvideo-sat-env/")):
            content = path.read_bytes().replace(os.fsencode(prefix), b"PREFIX")
            if name.endswith(".pyc"):
                content = content[:8] + content[16:]  # without time and size of the source: copies have other times
            found[name] = (oct(stat.S_IMODE(mode)), content)
    return found


def record(prefix: Path, name: str) -> dict[str, Any]:
    (path,) = (prefix / "conda-meta").glob(f"{name}-[0-9]*.json")
    return json.loads(path.read_text())


def listed(prefix: Path, name: str) -> dict[str, dict[str, Any]]:
    return {entry["_path"]: entry for entry in record(prefix, name)["paths_data"]["paths"]}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("few", [0, 24], ids=["processes", "in-process"])
def test_of_two_packages_with_one_path_the_last_wins_as_with_conda(
    site: Site, odd: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """What is needed comes first, then the name decides: conda's order for an explicit lock that we render."""
    monkeypatch.setattr(workers, "FEW", few)
    prefix = site.home / "env"
    result = site.install(prefix, **options(odd))
    for path, content in TAKEN.items():
        assert content is None or (prefix / path).read_text() == content, path
    assert set(result.collisions) == {
        "lib/same.txt: both in one and in two",
        "lib/needed.txt: both in above and in one",
        "site-packages/clash.py: both in one and in three",
        "bin/tool: both in one and in three",
    }
    assert complete(prefix) and not list(prefix.glob("**/*clobber*"))
    for name in ("one", "two"):  # both list it, and what is said of its content is true
        assert listed(prefix, name)["lib/same.txt"]["sha256_in_prefix"] == sha256(b"two")
    for cached, content in (("one-*/lib/same.txt", "one"), ("one-*/bin/tool", "plain")):
        (path,) = site.cache.glob(f"pkgs/{cached}")
        assert path.read_text() == content


@pytest.mark.fault("entry-point-clash", "environment", "the last package's is taken, as with conda; both are named")
def test_an_entry_point_is_byte_for_byte_the_one_of_conda(site: Site, odd: Path) -> None:
    prefix = site.home / "env"
    site.install(prefix, **options(odd))
    assert (prefix / "bin/tool").read_text() == (
        f"#!{prefix}/bin/python{packages.host_python_spec()[1]}\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n\n"
        "from three import main\n\nif __name__ == '__main__':\n"
        "    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n    sys.exit(main())\n"
    )
    assert subprocess.run([prefix / "bin/tool"], capture_output=True, text=True, check=True).stdout == "three\n"
    entry = listed(prefix, "three")["bin/tool"]
    assert entry["path_type"] == "unix_python_entry_point"
    assert entry["size_in_bytes"] == (prefix / "bin/tool").stat().st_size


BY_SHELL = "#!/bin/sh\n'''exec' \"{0}/bin/python3.11\" \"$0\" \"$@\" #'''\n"


@pytest.mark.parametrize(
    ("prefix", "start"),
    [
        ("/envs/sat", "#!{0}/bin/python3.11\n"),
        ("/envs/with space", BY_SHELL),
        ("/" + "l" * 107, "#!{0}/bin/python3.11\n"),  # with the end of the line 126 characters
        ("/" + "l" * 108, "#!{0}/bin/python3.11\n"),
        ("/" + "l" * 109, BY_SHELL),
    ],
)
def test_what_starts_an_entry_point_is_what_conda_writes(prefix: str, start: str) -> None:
    script = entry_points.parse(" tool =  a.b : c.d ").script(f"{prefix}/bin/python3.11").decode()
    assert script.startswith(f"{start.format(prefix)}# -*- coding")
    assert "from a.b import c\n" in script and "sys.exit(c.d())" in script


def test_records_have_what_conda_writes(site: Site, odd: Path) -> None:
    prefix = site.home / "env"
    site.install(prefix, **options(odd))
    linked, paths = record(prefix, "linked"), listed(prefix, "linked")
    assert linked["files"] == ["lib/liblinked.so", "lib/liblinked.so.1", "share/linked/dir/file"]
    link = paths["lib/liblinked.so"]
    assert link["path_type"] == "softlink" and "sha256_in_prefix" not in link
    assert paths["share/linked/dir/file"]["sha256_in_prefix"] == sha256(b"x")
    folder = Path(linked["extracted_package_dir"])
    assert linked["url"].startswith(CHANNEL) and linked["link"] == {"source": str(folder), "type": 1}
    assert folder.is_dir() and folder.parent.name == "pkgs"
    changed = listed(prefix, "prefixed")["bin/prefixed"]
    assert changed["sha256_in_prefix"] == sha256((prefix / "bin/prefixed").read_bytes()) != changed["sha256"]


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.fault("file-for-folder", "error", "names both packages and the path, before anything is linked")
def test_a_file_in_place_of_anothers_folder_is_refused(site: Site, tmp_path: Path, kind: str) -> None:
    place = packages.Text("1") if kind == "file" else packages.Link("..")
    channel = own_channel(
        tmp_path / "own", packages.Spec("one", files={"share/one": place}),
        packages.Spec("two", files={"share/one/below": packages.Text("2")}),
    )  # fmt: skip
    said = r"^one-1.0-h0_0.conda: .* share/one, where two-1.0-h0_0.conda has a folder \(share/one/below\)"
    with pytest.raises(VerificationError, match=said):
        site.install(site.home / "env", **options(channel))
    assert os.listdir(site.home) == [] and "Linking" not in site.progress.titles


CLAIMS: dict[str, packages.Text | packages.Link] = {
    "etc": packages.Link("/tmp"), "etc/conda/activate.d": packages.Link("../../share"), "bin": packages.Text("x"),
    "etc/cogvideo-sat-env": packages.Text("x"), "etc/cogvideo-sat-env/receipt.json": packages.Text("{}"),
    "conda-meta/history": packages.Link("/etc/motd"), "conda-meta/state": packages.Text("{}"),
    "conda-meta/other-1-0.json": packages.Text("{}"), "lib/python3.11/__pycache__": packages.Link("/tmp"),
    "bin/activate-cogvideo-sat": packages.Text("echo hijacked\n"), ".satenv-view/x": packages.Text("x"),
    "etc/conda/activate.d/cogvideo-sat-env.sh": packages.Text("echo hijacked\n"),
    "etc/conda/deactivate.d/cogvideo-sat-env.fish": packages.Link("../x"), "bin/python": packages.Text("#!/bin/sh\n"),
}  # fmt: skip


@pytest.mark.parametrize("path", [*CLAIMS, "entry point"])
@pytest.mark.fault("claims-ours", "error", "names the package and the path that the program itself makes")
def test_a_package_that_claims_a_path_of_ours_is_refused(site: Site, tmp_path: Path, path: str) -> None:
    """By name, before anything is linked: we would write through it, or it would pass for ours."""
    files = {} if path == "entry point" else {path: CLAIMS[path]}
    points = ["python3 = evil:main"] if path == "entry point" else []
    spec = packages.Spec("evil", files=files, entry_points=points, noarch="python" if points else None)
    made = options(own_channel(tmp_path / "own", spec))
    python = site.artefact("python")
    named = "bin/python3" if points else re.escape(path)
    with pytest.raises(VerificationError, match=rf"^evil-1.0-h0_0.conda: .* {named}, (which|where)"):
        site.install(
            site.home / "env", artefacts=[*made["artefacts"], python],
            locate=lambda a: site.locate(a) if a == python else made["locate"](a),
        )  # fmt: skip
    assert os.listdir(site.home) == [] and "Linking" not in site.progress.titles


def test_our_own_files_are_never_written_through_what_is_there(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("theirs")
    (root / "etc/link").symlink_to(outside)
    (root / "etc/file").symlink_to(outside / "file")
    os.link(outside / "file", root / "hard")
    own_files.write(root, "etc/file", b"ours")
    own_files.write(root, "hard", b"ours")
    with pytest.raises(VerificationError, match="etc/link, which must be a folder"):
        own_files.write(root, "etc/link/new", b"ours")
    assert (outside / "file").read_text() == "theirs" and os.listdir(outside) == ["file"]
    assert (root / "etc/file").read_text() == (root / "hard").read_text() == "ours"


MALFORMED = [
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "clonelink"}]}, "path_type is 'clonelink'"),
    ("paths.json", {"paths": [{"_path": "share/a"}]}, "path_type is 'None'"),
    ("paths.json", {"paths": [{"path_type": "hardlink"}]}, "_path is 'None'"),
    ("paths.json", {"paths": [{"_path": 7, "path_type": "hardlink"}]}, "_path is '7'"),
    ("paths.json", {"paths": ["share/a"]}, "entry 0: it is 'share/a'; expected a mapping"),
    ("paths.json", {"paths": {}}, "paths is '{}'; expected a list"),
    ("paths.json", [], r"it is '\[\]'; expected a mapping"),
    ("paths.json", {"paths": [], "paths_version": 9}, "paths_version is '9'"),
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "hardlink", "prefix_placeholder": "/x"}]}, "file_mode"),
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "hardlink", "file_mode": "utf-16"}]}, "file_mode is"),
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "hardlink", "sha256": "XYZ"}]}, "sha256 is 'XYZ'"),
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "hardlink", "size_in_bytes": -1}]}, "size_in_bytes"),
    ("paths.json", {"paths": [{"_path": "share/a", "path_type": "hardlink", "no_link": "yes"}]}, "no_link is 'yes'"),
    ("index.json", {"depends": "python"}, "depends is 'python'; expected a list of texts"),
    ("index.json", {"build_number": "0"}, "build_number is '0'"),
    ("index.json", {"noarch": "ruby"}, "noarch is 'ruby'"),
    ("index.json", {"noarch": "python", "python_site_packages_path": "/tmp"}, "python_site_packages_path"),
    ("link.json", {"noarch": {"type": "perl"}}, "noarch.type is 'perl'"),
    ("link.json", {"noarch": {"type": "python", "entry_points": ["x"]}}, "'x': expected command = module:function"),
    ("link.json", {"noarch": {"type": "python", "entry_points": ["../x = a:b"]}}, "can't be a command's name"),
    ("link.json", {"noarch": {"type": "python", "entry_points": ["x = os;rm:b"]}}, "expected command = module"),
]


@pytest.mark.parametrize(("file", "content", "said"), MALFORMED)
@pytest.mark.fault("malformed-info", "error", "names the package, the file and the field; nothing is fetched instead")
def test_a_malformed_package_is_named_with_its_field(
    site: Site, tmp_path: Path, file: str, content: Any, said: str
) -> None:
    """rattler would fetch a package that it can't read from the lock's own address, whatever the source."""
    archive = packages.make_package(
        packages.Spec("odd", files={"share/a": packages.Text("x")}), tmp_path / "conda-forge", current_platform()
    )
    packages.edit_info(archive, {f"info/{file}": content})
    lying = replace(packages.artefact(archive, CHANNEL), url=f"{site.server.url}/conda-forge/linux-64/{archive.name}")
    with pytest.raises(VerificationError, match=rf"odd-1.0-h0_0.*info/{file}.*{said}"):
        site.install(site.home / "env", artefacts=[lying], locate=lambda a: archive.as_uri())
    assert os.listdir(site.home) == [] and site.server.requests == []


def test_what_rattler_can_not_read_is_not_fetched_by_it(site: Site, tmp_path: Path) -> None:
    """Even when a check of ours lets it pass: rattler knows no address."""
    folder = tmp_path / "odd"
    (folder / "info").mkdir(parents=True)
    index = {"name": "data", "version": "3", "build": "0", "build_number": 0, "subdir": "noarch", "depends": []}
    (folder / "info/index.json").write_text(json.dumps(index))
    (folder / "info/paths.json").write_text('{"paths": [{"_path": "a", "path_type": "clonelink"}], "paths_version": 1}')
    honest = site.artefact("data")
    package = {
        "name": "data-3-0", "folder": str(folder), "paths": None, "noarch_python": False, "size": honest.size,
        "sha256": honest.sha256, "md5": honest.md5, "file_name": honest.file_name,
        "channel": f"{site.server.url}/conda-forge",
    }  # fmt: skip
    places = {name: str(tmp_path / name) for name in ("staging", "prefix", "view")}
    message = {**places, "platform": current_platform(), "packages": [package]}
    child = workers.start_process("link")
    try:
        (wrong,) = workers.ask(child, "link", [message])
    finally:
        child.kill()
        workers.reap([child])
    assert wrong and site.server.requests == []


def test_one_inode_in_cache_and_prefix_and_the_same_prefix_twice(site: Site, odd: Path) -> None:
    site.install(site.home / "env", **options(odd))
    (cached,) = site.cache.glob("pkgs/linked-*/share/linked/dir/file")
    assert cached.stat().st_nlink == 2
    first, said = tree(site.home / "env"), texts(site.home / "env")
    shutil.rmtree(site.home / "env")
    site.install(site.home / "env", **options(odd))
    assert tree(site.home / "env") == first and texts(site.home / "env") == said


def texts(prefix: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (prefix / "conda-meta").iterdir()}


@pytest.mark.fault("cache-tampered", "environment", "the package is extracted again")
@pytest.mark.parametrize("few", [0, 24], ids=["processes", "in-process"])
def test_a_package_that_is_changed_while_it_is_linked_is_extracted_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(workers, "FEW", few)
    site.install(site.home / "one")
    (cached,) = site.cache.glob("pkgs/linked-*/share/linked/dir/file")
    cached.unlink()
    cached.write_text("y")
    site.install(site.home / "two")
    assert (site.home / "two/share/linked/dir/file").read_text() == "x" and site.leftovers() == []
    assert "cache: share/linked/dir/file of linked was changed; it is extracted again" in site.progress.said


@pytest.mark.slow
def test_a_damaged_proof_is_made_again(site: Site) -> None:
    data = [site.artefact("data")]
    site.install(site.home / "one", artefacts=data)
    (manifest,) = site.cache.glob("pkgs/data-*.manifest.json")
    for line in (0, 1, 2):
        for number, damage in enumerate(("", "[]", '{"share/data/a.txt": 7}', "{", "\x00")):
            lines = manifest.read_text().split("\n")
            lines[line] = damage
            manifest.write_text("\n".join(lines))
            prefix = site.home / f"{line}-{number}"
            site.install(prefix, artefacts=data)
            assert (prefix / "share/data/a.txt").read_text() == "a\n" and site.leftovers() == [], (line, damage)
            assert manifest.read_text().split("\n")[line] != damage, (line, damage)


def test_a_cache_that_changes_all_the_time_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch_all(task: str, jobs: list) -> workers.Work:
        for path in site.cache.glob("pkgs/linked-*/share/linked/dir/file"):
            path.unlink()
            path.write_text("y")
        return real(workers.WorkerPool(), task, jobs)

    real = workers.WorkerPool.start
    monkeypatch.setattr(workers.WorkerPool, "start", lambda self, task, jobs: touch_all(task, jobs))
    with pytest.raises(VerificationError, match="extracted packages changed 3 times while they were linked"):
        site.install(site.home / "env")
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_a_process_that_is_killed_is_told_and_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FEW", 0)
    real = workers.WorkerPool._share

    def share_and_kill(self: workers.WorkerPool, manifests: set[str]) -> None:
        real(self, manifests)
        self._children[0].kill()
        self._children[0].wait()

    monkeypatch.setattr(workers.WorkerPool, "_share", share_and_kill)
    with pytest.raises(SatenvError, match=f"the process ended with -{signal.SIGKILL.value}"):
        site.install(site.home / "env")
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_the_processes_end_with_their_parent() -> None:
    worker = Path(workers.__file__).with_name("worker_main.py")
    child = subprocess.Popen([sys.executable, "-I", "-S", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b'{"task": "verify", "jobs": [{"manifest_path": "/nowhere", "folder": "/nowhere"}]}\n')
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"results": ["nowhere"]}
    child.stdin.close()
    assert child.wait(timeout=20) == 0
    child.stdout.close()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_on_another_file_system_the_files_are_copied(site: Site) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        two = Path(other) / "two"
        if diskspace.same_file_system(two, site.cache):
            pytest.skip("/dev/shm is no other file system")
        site.install(site.home / "one")
        site.install(two)
        assert tree(site.home / "one").keys() == tree(two).keys() and complete(two)
        assert (two / "share/linked/dir/file").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("entry", "plain"),
    [
        ({}, True),
        ({"_path": "share/..b/x"}, True),
        ({"prefix_placeholder": "/opt/x", "file_mode": "text"}, False),
        ({"no_link": True}, False),
        ({"path_type": "softlink"}, False),
        ({"sha256": None}, False),
        ({"size_in_bytes": None}, False),
        ({"_path": "a//b"}, False),
        ({"_path": "./a"}, False),
        ({"_path": "a/./b"}, False),
        ({"_path": "info/x"}, False),
        ({"_path": "conda-meta/x.json"}, False),
        ({"_path": "a\\b"}, False),
    ],
)
def test_what_is_plain(entry: dict[str, object], plain: bool) -> None:
    usual = {"_path": "share/a", "path_type": "hardlink", "sha256": "0" * 64, "size_in_bytes": 1}
    if entry.get("_path") == "share/..b/x":
        plain = False  # hidden names are left to rattler, this one with them
    assert is_plain({**usual, **entry}) is plain


@pytest.mark.fault("machine-states", "error", "names the place and the state in one line, with what to do; exit 9")
def test_a_limit_of_the_shell_is_not_blamed_on_a_package(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install(site.home / "first")
    popen = subprocess.Popen
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))}
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: popen(*a, **k, **(limit if "stderr" in k else {})))
    monkeypatch.setattr(
        resource, "getrlimit", lambda number: (512, 512) if number == resource.RLIMIT_FSIZE else (-1, -1)
    )
    with pytest.raises(SatenvError) as refused:
        site.install(site.home / "second")
    assert refused.value.exit_code == 9 and "ulimit -f" in refused.value.remedy
    assert "package is at fault" not in refused.value.remedy and not (site.home / "second").exists()


def test_a_working_directory_that_is_gone_is_not_needed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = site.home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert site.install(site.home / "env").status == "created"
    finally:
        os.chdir("/")


def test_an_environment_that_is_seen_elsewhere_says_so_in_every_file_that_embeds_a_path(site: Site) -> None:
    place, seen_at = site.home / "env", Path("/opt/seen/here")
    site.install(place, seen_at=seen_at)
    for name in ("bin/prefixed", "bin/purepy-script", "bin/purepy", "lib/libprefixed.so", "bin/activate-cogvideo-sat",
                 "etc/cogvideo-sat-env/receipt.json"):  # fmt: skip
        content = (place / name).read_bytes()
        assert bytes(seen_at) in content and bytes(place) not in content, name
