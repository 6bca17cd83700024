"""A container image without Docker: what validators read, layers that an update leaves alone, a base that fits."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import packages
from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster.oci import groups, image_layout
from cogvideo_sat_env.cluster.oci.image import make
from cogvideo_sat_env.cluster.oci.image_layout import Image
from cogvideo_sat_env.create.create import CreateRequest
from install.conftest import CHANNEL

PYTHON = os.path.realpath(shutil.which("python3") or "/usr/bin/python3")


@pytest.fixture
def build(site, monkeypatch) -> Any:
    monkeypatch.setenv("SATENV_CACHE", str(site.cache))
    facts = {"variant": "cpu", "lock": "conda-lock.yml", "lock_sha256": "ab" * 32}
    return lambda request: site.install(request.prefix, seen_at=request.options.seen_at, facts=facts)


@pytest.fixture
def base(tmp_path) -> Path:
    """A root file system: a merged /usr with a shell, a device, the Python that the environment leads to."""
    root = tmp_path / "base"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr" / "bin" / "sh").write_text("#!\n")
    (root / "proc").mkdir()
    (root / "proc" / "kcore").write_text("not to be taken")
    python = root / os.path.realpath(packages.sys.executable).lstrip("/")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text("python")
    os.link(python, root / "usr" / "bin" / "other")
    return root


def write(build: Any, base: Path, out: Path, **more: Any) -> image_layout.WrittenImage:
    return make(Image(out, base, **more), build, CreateRequest(), Silent())


def names(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return set(archive.getnames())


def by_name(written: image_layout.WrittenImage) -> dict[str, str]:
    return {one.name: one.digest for one in written.layers}


def blob(written: image_layout.WrittenImage, digest: str) -> Path:
    return written.path / "blobs" / "sha256" / digest.partition(":")[2]


def test_the_same_lock_and_base_give_the_same_digest(build, base, tmp_path):
    one, two = (write(build, base, tmp_path / name) for name in ("one", "two"))
    assert one.digest == two.digest and by_name(one) == by_name(two)
    zstd = write(build, base, tmp_path / "three", compression="zstd")
    assert [layer.diff_id for layer in zstd.layers] == [
        layer.diff_id for layer in one.layers
    ] and zstd.digest != one.digest
    archive = shutil.make_archive(str(tmp_path / "base"), "gztar", base)
    packed = write(build, Path(archive), tmp_path / "one")
    assert by_name(packed) == {**by_name(one), "base": by_name(packed)["base"]}, "only the base's layer is another"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_layers_hold_the_environment_where_it_is_seen_and_the_base_without_its_devices(build, base, tmp_path):
    written = write(build, base, tmp_path / "out")
    found = {name: names(blob(written, digest)) for name, digest in by_name(written).items()}
    assert {"bin", "usr/bin/sh", "proc"} <= found["base"] and "proc/kcore" not in found["base"]
    everything = [name for layer, members in found.items() if layer != "base" for name in members]
    assert "opt/cogvideo-sat/share/data/a.txt" in everything and "opt/cogvideo-sat/bin/python" in everything
    assert {
        "opt/cogvideo-sat/bin/activate-cogvideo-sat",
        "opt/cogvideo-sat/etc/cogvideo-sat-env/receipt.json",
    } <= found["environment"]
    files = [name for name in everything if name.count("/") > 2 and name.endswith((".txt", ".py", ".json"))]
    assert len(files) == len(set(files)), "no file is in two layers"
    manifest = json.loads(blob(written, written.digest).read_text())
    config = json.loads(blob(written, manifest["config"]["digest"]).read_text())
    labels = config["config"]["Labels"]
    assert labels["cogvideo-sat-env.lock-sha256"] == "ab" * 32 and labels["cogvideo-sat-env.source"] == "mirror"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])


@pytest.mark.parametrize("wheels", [False, True])
def test_an_update_of_one_package_ships_one_layer_and_the_environments_own(
    build, base, site, tmp_path, monkeypatch, wheels
):
    def use_channel(name: str) -> None:
        """A channel of converted wheels is in the cache, and named by all that is in it."""
        url = (site.cache / "channels" / (name * 16)).as_uri() if wheels else CHANNEL
        site.artefacts = [
            replace(one, channel=url, url=f"{url}/{one.subdir}/{one.file_name}") for one in site.artefacts
        ]

    monkeypatch.setattr(groups, "LARGE", 50)
    site.locate = lambda a: f"{site.server.url}/conda-forge/{a.subdir}/{a.file_name}"
    use_channel("a")
    before = by_name(write(build, base, tmp_path / "before"))
    assert "package linked" in before
    channel = tmp_path / "new" / "conda-forge"
    changed = packages.make_package(
        packages.Spec("linked", "2.0", files={"lib/liblinked.so.1": packages.Binary(b"\x7fELF new" * 9)}),
        channel,
        current_platform(),
    )
    added = packages.make_package(
        packages.Spec("another", files={"share/another": packages.Text("x" * 99)}), channel, current_platform()
    )
    new = [packages.artefact(path, CHANNEL) for path in (changed, added)]
    site.artefacts = [a for a in site.artefacts if a.name != "linked"] + new
    use_channel("b")
    site.locate = lambda a: (
        found.as_uri()
        if (found := channel / a.subdir / a.file_name).exists()
        else f"{site.server.url}/conda-forge/{a.subdir}/{a.file_name}"
    )
    after = by_name(write(lambda r: site.install(r.prefix, seen_at=r.options.seen_at), base, tmp_path / "after"))
    assert {name for name in after if before.get(name) != after[name]} == {
        "package linked",
        "package another",
        "environment",
    }


def test_recipes_name_the_lock_and_make_the_same_environment(build, base, tmp_path):
    out = Image(tmp_path / "o", base, dockerfile=tmp_path / "Dockerfile", apptainer=tmp_path / "sat.def")
    make(out, build, CreateRequest(), Silent())
    for name in ("Dockerfile", "sat.def"):
        text = (tmp_path / name).read_text().replace(str(base), "/rootfs")
        golden = Path(__file__).parent / "golden" / name
        assert text == golden.read_text(), f"{golden}: not what is written now:\n{text}"


@pytest.mark.parametrize("there", [False, True])
def test_an_image_that_cannot_take_its_place_leaves_what_was_there_and_says_why(
    build, base, tmp_path, monkeypatch, there
):
    out, own = tmp_path / "out", Path.rename
    if there:
        write(build, base, out)
    before = sorted(path.name for path in out.rglob("*"))

    def rename(self: Path, target: Path) -> Path:
        if target == out and (self / "index.json").exists() and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "the disk is gone")
        return own(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((OSError, SatenvError), match="the disk is gone"):
        write(build, base, out)
    assert sorted(path.name for path in out.rglob("*")) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


@pytest.mark.slow
@pytest.mark.fault("image-base", "error", "names the base and what was expected; no image is written")
def test_a_base_that_does_not_fit_is_refused_before_anything_is_written(build, base, tmp_path):
    def refused(match: str, **more: Any) -> None:
        given = {"base": base, "out": tmp_path / "out", **more}
        with pytest.raises(SatenvError, match=match):
            write(build, given.pop("base"), given.pop("out"), **given)
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]

    refused("no such file", base=tmp_path / "no")
    (tmp_path / "text").write_text("no archive")
    refused("no whole tar archive", base=tmp_path / "text")
    archive = Path(shutil.make_archive(str(tmp_path / "cut"), "gztar", base))
    whole = archive.read_bytes()
    for length in (300, 301, len(whole) // 2):
        archive.write_bytes(whole[:length])
        refused("no whole tar archive", base=archive)
    plain = Path(shutil.make_archive(str(tmp_path / "plain"), "tar", base))
    content = plain.read_bytes().rstrip(b"\0")
    for length in (
        700,
        len(content) // 1024 * 512,
        -(-len(content) // 512) * 512,
    ):  # the last one lacks its end mark alone
        plain.write_bytes(content[:length].ljust(min(length, -(-len(content) // 512) * 512), b"\0"))
        refused("no whole tar archive", base=plain)
    with tarfile.open(tmp_path / "evil.tar", "w") as evil:
        evil.addfile(tarfile.TarInfo("../etc/passwd"), io.BytesIO(b""))
    refused("leads out", base=tmp_path / "evil.tar")
    (tmp_path / "empty").mkdir()
    refused("no /bin/sh", base=tmp_path / "empty")
    refused("--tag", tag="no:tag")
    refused("--at", at=Path("relative"))
    refused("--at", at=Path("/with space"))
    refused("has a folder at /usr/bin", at=Path("/usr/bin"))
    refused("has a link at /bin", at=Path("/bin/env"))
    (base / "usr" / "bin" / ".wh.sh").touch()
    refused("deletion", base=base)
    (base / "usr" / "bin" / ".wh.sh").unlink()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    with pytest.raises(PrefixError, match="no image layout"):
        write(build, base, tmp_path / "else")
    assert (tmp_path / "else" / "file").exists()
    shutil.rmtree(base / os.path.realpath(packages.sys.executable).lstrip("/").split("/")[0], ignore_errors=True)
    (base / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    (base / "usr" / "bin" / "sh").touch()
    (base / "usr" / "bin" / "other").unlink(missing_ok=True)
    with pytest.raises(InputError, match="wheels use a Python outside"):
        write(build, base, tmp_path / "out")


@pytest.mark.skipif(shutil.which("skopeo") is None or shutil.which("umoci") is None, reason="needs skopeo and umoci")
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_skopeo_and_umoci_read_it(build, base, tmp_path, compression):
    written = write(build, base, tmp_path / "out", tag="t1", compression=compression)
    ran = subprocess.run(["skopeo", "inspect", f"oci:{written.path}:t1"], capture_output=True, text=True, check=True)
    shown = json.loads(ran.stdout)
    assert shown["Digest"] == written.digest and len(shown["Layers"]) == len(written.layers)
    assert shown["Labels"]["org.opencontainers.image.title"] == "cogvideo-sat-env" and shown["Os"] == "linux"
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copied = f"oci:{tmp_path}/copy:t1"
    subprocess.run(
        ["skopeo", "--policy", policy, "copy", "-q", f"oci:{written.path}:t1", copied], check=True, capture_output=True
    )
    if os.geteuid() == 0:
        bundle = tmp_path / "bundle"
        subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/copy:t1", bundle], check=True, capture_output=True)
        root = bundle / "rootfs"
        assert (root / "opt/cogvideo-sat/share/data/a.txt").read_text() == "a\n"
        assert os.readlink(root / "bin") == "usr/bin" and (root / "usr/bin/other").stat().st_nlink == 2
        script = (root / "opt/cogvideo-sat/bin/prefixed").read_text()
        assert "/opt/cogvideo-sat/share" in script and str(tmp_path) not in script


def test_the_commands_write_an_image_and_deploy_one_for_nodes(apps, base, tmp_path):
    apps.lock()
    source = ("--source", "channel", "--variant", "cpu")
    ran = apps.satenv("image", str(tmp_path / "oci"), "--base", str(base), "--compression", "zstd", "--json", *source)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    index = json.loads((tmp_path / "oci" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == found["digest"] and found["layers"][0]["name"] == "base"
    ran = apps.satenv("image", str(tmp_path / "oci"), "--base", str(tmp_path / "no"), *source)
    assert ran.returncode == 3 and "no such file" in ran.stderr
    ran = apps.satenv("deploy", str(apps.path), "--at", "/tmp/x", *source)
    assert ran.returncode == 2 and "--image" in ran.stderr
    ran = apps.satenv("stage", str(apps.path), "--how", "mount")
    assert ran.returncode == 3 and "expected a ROOT" in ran.stderr
