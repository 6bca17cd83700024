"""A bundle carries everything in one file, always the same bytes, and installs nothing that isn't proven."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import airgap
import channelserver
import packages
from airgap import Lab
from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.bundle.container import open_bundle
from cogvideo_sat_env.bundle.read_inventory import read
from cogvideo_sat_env.bundle.unpack_tool import unpack_project
from cogvideo_sat_env.bundle.verify_bundle import verify
from cogvideo_sat_env.report.difference import diff

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
LINKED = "channel/conda-forge/linux-64/linked-1.0-h0_0.conda"


@dataclass
class Site(Lab):
    """A site that packs and installs, whose tool has no wheels of its own: the test's Python stands for it."""

    def pack(self, out: Path, *arguments: str) -> dict:
        run = self.satenv("bundle", "pack", str(out), "--variant", "cpu", "--json", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        return json.loads(run.stdout)

    def install(self, bundle: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ("bundle", "install", str(bundle), "-p", str(self.prefix), "--no-doctor", *arguments)
        return self.satenv(*command, SATENV_PROJECT="/nowhere", SATENV_CACHE=str(self.target), **variables)

    @property
    def prefix(self) -> Path:
        return self.home / "envs" / "sat"

    @property
    def target(self) -> Path:
        return self.home / "target-cache"

    def refused(self, bundle: Path, *arguments: str, code: int, said: str) -> str:
        run = self.install(bundle, *arguments)
        assert run.returncode == code and said in run.stderr and "Traceback" not in run.stderr, run.stderr
        assert not self.prefix.exists() and not list(self.home.glob("envs/.sat*"))
        return run.stderr


def make_project(project: Path) -> None:
    """Give the copied project the program, and a tool without wheels."""
    (project / "src").symlink_to(airgap.PROJECT / "src")
    (project / "scripts").mkdir(exist_ok=True)
    (project / "scripts" / "tool-requirements.txt").write_text("# none: the test's Python has them\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return airgap.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def site(world: Path, project: Path, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "home").mkdir()
    make_project(project)
    with channelserver.serving(world) as server:
        site = Site(project, server, tmp_path / "home")
        site.write_lock(airgap.locked(world, f"{server.url}/conda-forge"))
        yield site


@pytest.fixture
def sat(site: Site, tmp_path: Path) -> Path:
    site.pack(tmp_path / "sat.pyz")
    site.server.close()
    return tmp_path / "sat.pyz"


def bare(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python without site-packages: what a bundle's own commands may need."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_a_bundle_installs_without_network_and_keeps_no_archive(site: Site, sat: Path) -> None:
    left = site.target / "bundles" / "unpack-killed" / "x.conda"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a killed run")
    run = site.install(sat, "--json")
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    assert (outcome["status"], outcome["packages"], outcome["source"]) == ("created", 5, "bundle")
    assert not left.exists(), "what a killed run has left is removed"
    assert (site.prefix / "share" / "old" / "body").stat().st_size == 8000
    assert (site.prefix / "bin" / "prefixed").read_text() == f"#!/bin/sh\necho {site.prefix}/share\n"
    assert not list(site.target.rglob("*.conda")) + list(site.target.rglob("*.tar.bz2")), "extracted packages only"
    assert site.home.as_posix() not in (site.prefix / "conda-meta" / "history").read_text()
    again = site.install(sat)
    assert again.returncode == 0 and "up to date" in again.stdout
    (site.prefix / "share" / "old" / "body").write_bytes(b"changed")
    repaired = site.install(sat, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert (site.prefix / "share" / "old" / "body").stat().st_size == 8000


def test_a_lock_its_bundle_and_the_environment_made_of_it_hold_the_same(site: Site, sat: Path) -> None:
    assert site.install(sat).returncode == 0
    sources = (
        site.project / "locks/linux-64-cpu-conda-lock.yml", sat, site.prefix,
        site.prefix / "etc/cogvideo-sat-env/receipt.json",
    )  # fmt: skip
    lock, *others = (read(source)[0] for source in sources)
    for other in others:
        assert len(lock.packages) == 5 and diff(lock, other).equal, diff(lock, other).to_text()
    bundle, prefix, _ = others
    assert (bundle.kind, bundle.variant, prefix.variant) == ("bundle", "linux-64-cpu", "linux-64-cpu")
    for package in bundle.packages:
        there = prefix.find(package.name)
        assert (package.size, package.licence, package.timestamp) == (there.size, there.licence, there.timestamp)
        assert package.installed_size and lock.find(package.name).installed_size is None
    assert site.satenv("diff", str(sat), str(site.prefix)).returncode == 0


@pytest.mark.e2e
def test_a_bundle_of_the_users_own_lock(site: Site, tmp_path: Path, world: Path) -> None:
    own = tmp_path / "mine.conda-lock.yml"
    site.write_lock(airgap.locked(world, f"{site.server.url}/conda-forge")[:2], path=str(own))
    site.pack(tmp_path / "own.pyz", "--lock", str(own))
    site.server.close()
    own.unlink()
    listed = json.loads(bare(tmp_path / "own.pyz", "list", "--json").stdout)
    assert list(listed["variants"]) == ["linux-64-cpu:mine.conda-lock.yml"]
    assert str(tmp_path).encode() not in (tmp_path / "own.pyz").read_bytes()
    run = site.install(tmp_path / "own.pyz", "--json")
    assert run.returncode == 0 and json.loads(run.stdout)["packages"] == 2, run.stderr
    receipt = json.loads((site.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
    assert (receipt["lock"], receipt["variant"]) == ("mine.conda-lock.yml", "linux-64-cpu")
    assert "up to date" in site.install(tmp_path / "own.pyz", "--variant", "cpu").stdout
    update = site.satenv("update", "-p", str(site.prefix))
    assert update.returncode == 3 and "was made from a bundle" in update.stderr and "NEW.pyz install" in update.stderr


def test_a_purged_file_of_a_bundles_program_is_unpacked_again(site: Site, sat: Path, tmp_path: Path) -> None:
    """Clusters delete old files of scratch one by one: that the folder is there says nothing."""
    bundle = open_bundle(sat)
    folder = unpack_project(bundle, tmp_path)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for purged in (folder / "environment.yml", next((folder / "src").rglob("cli/__init__.py"))):
        purged.unlink()
        assert unpack_project(bundle, tmp_path) == folder
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_same_input_gives_the_same_bytes(site: Site, tmp_path: Path) -> None:
    first = site.pack(tmp_path / "one.pyz")
    os.utime(site.project / "environment.yml", (1, 1))
    shutil.rmtree(site.home / "cache")
    second = site.pack(tmp_path / "two.pyz", "--mirror", str(tmp_path / "elsewhere"), "--jobs", "1")
    assert (tmp_path / "one.pyz").read_bytes() == (tmp_path / "two.pyz").read_bytes()
    assert first["id"] == second["id"]
    content = (tmp_path / "one.pyz").read_bytes()
    assert str(tmp_path).encode() not in content and str(airgap.PROJECT).encode() not in content


def test_its_own_commands_need_nothing_but_python(site: Site, sat: Path) -> None:
    run = bare(sat.name, "verify", "--json", cwd=sat.parent)
    assert run.returncode == 0, run.stderr
    listed = json.loads(bare(sat, "list", "--json").stdout)
    assert listed["id"] == json.loads(run.stdout)["id"]
    assert (
        listed["variants"]["linux-64-cpu"]["conda"] == 5
        and listed["variants"]["linux-64-cpu"]["installed_bytes"] > 8000
    )
    assert "0 added, 0 removed, 0 changed" in bare(sat, "diff", sat).stdout
    for wrong in ("frobnicate",), (), ("verify", "--frobnicate"), ("verify", "--signer", sat), ("verify", "--signers"), \
        ("verify", "--signers", ""), ("verify", "--signers="), ("verify", "--signers", "--json"), ("verify", "x"), \
        ("verify", "--identity", "me"), ("verify", "--signers", sat, "--identity", ""), ("install", "--signers", " "), \
        ("install", "-p", "x", "--signer", sat), ("install", "--identity", "me"), ("diff",), ("list", "--base", ""):  # fmt: skip
        run = bare(sat, *wrong)
        assert run.returncode == 2 and "error:" in run.stderr and run.stdout == "", (wrong, run.stderr)
        if wrong[:1] == ("verify",):
            same = site.satenv("bundle", "verify", str(sat), *map(str, wrong[1:]))
            assert same.returncode in (2, 3), (wrong, same.stdout)


def test_its_data_is_a_plain_tar_archive_with_a_channel(sat: Path, tmp_path: Path) -> None:
    with tarfile.open(sat, "r:") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "out", filter="data")
        assert {m.mtime for m in archive.getmembers()} == {1577836800} and {m.uid for m in archive.getmembers()} == {0}
    assert names == sorted(names) and LINKED in names
    repodata = json.loads((tmp_path / "out" / "channel" / "conda-forge" / "linux-64" / "repodata.json").read_text())
    assert "linked-1.0-h0_0.conda" in repodata["packages.conda"]
    sbom = json.loads((tmp_path / "out" / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX" and len(sbom["components"]) == 5
    old = next(c for c in sbom["components"] if c["name"] == "old")
    assert old["purl"].startswith("pkg:conda/old@2.1?") and old["hashes"][0]["alg"] == "SHA-256"


@pytest.mark.e2e
@pytest.mark.fault(
    "flipped-bit-bundle", "error", "names the member and both hashes, or that the end or the frame is damaged"
)
def test_a_flipped_bit_anywhere_is_found(site: Site, sat: Path, tmp_path: Path) -> None:
    content = sat.read_bytes()
    opened = open_bundle(sat)
    member = opened.members[LINKED]
    end = opened.manifest["data_size"]
    chosen = [0, member.offset - 400, member.offset, member.offset + member.size // 2, end - 1, end, end + 20,
              len(content) - 30, len(content) - 1]  # fmt: skip
    chosen += random.Random(3).sample(range(len(content)), 40)
    damaged = tmp_path / "damaged.pyz"
    for position in chosen:
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        damaged.write_bytes(broken)
        with pytest.raises(VerificationError, match="damaged"):
            verify(open_bundle(damaged))
    broken = bytearray(content)
    broken[member.offset + member.size // 2] ^= 4
    damaged.write_bytes(broken)
    said = site.refused(damaged, code=4, said=f"{LINKED}: expected SHA-256 {member.sha256}, found ")
    assert "copy the bundle again" in said
    assert bare(damaged, "verify").returncode == 4


@pytest.mark.fault("bundle-truncated", "error", "says that the bundle's end is missing")
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999999])
def test_a_truncated_bundle_is_refused(site: Site, sat: Path, keep: float) -> None:
    os.truncate(sat, int(sat.stat().st_size * keep))
    site.refused(sat, code=4, said="its end is damaged or missing")


def test_bytes_before_the_bundle_are_refused(sat: Path) -> None:
    sat.write_bytes(b"x" * 512 + sat.read_bytes())
    with pytest.raises(VerificationError, match="bytes before the manifest"):
        open_bundle(sat)


@pytest.mark.e2e
@pytest.mark.fault("bundle-volume", "error", "names the volume that is missing, damaged or of the wrong size")
def test_volumes_hold_the_same_and_a_missing_one_is_named(site: Site, tmp_path: Path, world: Path) -> None:
    big = packages.Spec("big", files={"share/big": packages.Binary(random.Random(1).randbytes(2_500_000))})
    root = tmp_path / "world"
    shutil.copytree(world, root)
    packages.make_package(big, root / "conda-forge", current_platform())
    site.server.root = root
    site.write_lock(airgap.locked(root, f"{site.server.url}/conda-forge"))
    made = site.pack(tmp_path / "sat.pyz", "--volume-size", "1M")
    site.server.close()
    assert len(made["volumes"]) >= 4 and (tmp_path / "sat.pyz").stat().st_size < 1_000_000
    assert all((tmp_path / name).stat().st_size <= 1_000_000 for name in made["volumes"])
    assert bare(tmp_path / "sat.pyz", "verify").returncode == 0
    second = tmp_path / made["volumes"][1]
    whole = second.read_bytes()
    second.unlink()
    site.refused(tmp_path / "sat.pyz", code=3, said=f"{second}: volume 2 of {len(made['volumes'])} is missing")
    second.write_bytes(whole[:-1])
    site.refused(tmp_path / "sat.pyz", code=4, said=f"{second}: expected 1,000,000 bytes, found 999,999")
    second.write_bytes(b"?" * len(whole))
    site.refused(tmp_path / "sat.pyz", code=4, said="expected SHA-256")
    first = (tmp_path / made["volumes"][0]).read_bytes()
    second.write_bytes(first)  # the media were mixed up
    (tmp_path / made["volumes"][0]).write_bytes(whole)
    site.refused(tmp_path / "sat.pyz", code=4, said="expected SHA-256")
    (tmp_path / made["volumes"][0]).write_bytes(first)
    second.write_bytes(whole)
    assert site.install(tmp_path / "sat.pyz").returncode == 0
    assert (site.prefix / "share" / "big").stat().st_size == 2_500_000


@pytest.mark.fault("bundle-base", "error", "names the base that the delta needs, and its SHA-256")
@pytest.mark.e2e
def test_a_delta_holds_what_is_new_and_applies_to_its_base_only(site: Site, tmp_path: Path, world: Path) -> None:
    everything = airgap.locked(world, f"{site.server.url}/conda-forge")
    site.write_lock([a for a in everything if a.name != "old"])
    site.pack(tmp_path / "v1.pyz")
    site.write_lock([a for a in everything if a.name != "data"])
    site.pack(tmp_path / "other.pyz")
    site.write_lock(everything)
    site.pack(tmp_path / "v2.pyz", "--since", str(tmp_path / "v1.pyz"))
    whole = site.pack(tmp_path / "whole.pyz")
    site.server.close()
    assert (tmp_path / "v2.pyz").stat().st_size < whole["bytes"] / 2
    assert bare(tmp_path / "v2.pyz", "verify", "--base", tmp_path / "v1.pyz").returncode == 0
    site.refused(tmp_path / "v2.pyz", code=3, said="is a delta on top of v1.pyz")
    site.refused(
        tmp_path / "v2.pyz", "--base", str(tmp_path / "other.pyz"), code=3, said="applies only on top of v1.pyz"
    )
    site.refused(tmp_path / "whole.pyz", "--base", str(tmp_path / "v1.pyz"), code=3, said="it needs no base")
    broken = bytearray((tmp_path / "v1.pyz").read_bytes())
    broken[open_bundle(tmp_path / "v1.pyz").members[LINKED].offset + 9] ^= 1
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "v1.pyz").write_bytes(broken)
    site.refused(tmp_path / "v2.pyz", "--base", str(tmp_path / "copy" / "v1.pyz"), code=4, said=LINKED)
    run = site.install(tmp_path / "v2.pyz", "--base", str(tmp_path / "v1.pyz"))
    assert run.returncode == 0, run.stderr
    assert (site.prefix / "share" / "old" / "body").exists() and (site.prefix / "share" / "data" / "a.txt").exists()
    found = json.loads(bare(tmp_path / "v2.pyz", "diff", tmp_path / "v1.pyz", "--json").stdout)
    assert f"channel/conda-forge/noarch/{airgap.OLD}" in found["added"]
    run = site.satenv(
        "bundle", "pack", str(tmp_path / "v3.pyz"), "--variant", "cpu", "--since", str(tmp_path / "v2.pyz")
    )
    assert run.returncode == 3 and "is itself a delta" in run.stderr


@pytest.mark.fault("bundle-signature", "error", "says that the bundle is unsigned, or signed by somebody else")
def test_only_a_pinned_signer_is_believed(site: Site, sat: Path, tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen")
    keys = {}
    for who in ("me", "mallory"):
        key = tmp_path / who
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", key], check=True)
        keys[who] = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    signers = tmp_path / "signers"
    signers.write_text(f'me@example.org namespaces="cogvideo-sat-env-bundle" {keys["me"]}\n')
    site.refused(sat, "--signers", str(signers), code=4, said="is not signed")

    def sign(who: str) -> None:
        from cogvideo_sat_env.report import signature

        signature.signature_path(sat).unlink(missing_ok=True)
        signature.sign(sat, open_bundle(sat).tail, tmp_path / who)

    sign("mallory")
    site.refused(sat, "--signers", str(signers), code=4, said="nobody in")
    sign("me")
    site.refused(
        sat, "--signers", str(signers), "--identity", "you@example.org", code=4, said="isn't you@example.org's"
    )
    site.refused(sat, "--signers", str(tmp_path / "none"), code=3, said="no such file")
    assert "signed by me@example.org" in bare(sat, "verify", "--signers", signers).stdout
    start = open_bundle(sat).manifest["data_size"]
    by_hand = subprocess.run(  # what docs/airgap.md tells to do before any code of the bundle runs
        f"tail -c +{start + 1} {sat} | ssh-keygen -Y verify -f {signers} -I me@example.org -n cogvideo-sat-env-bundle "
        f"-s {sat}.sig",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert by_hand.returncode == 0, by_hand.stderr
    shutil.copy(f"{sat}.sig", tmp_path / "kept.sig")
    other = airgap.make_wheel(tmp_path / "w")  # any other content: the old signature must not fit
    (site.project / "README.md").write_bytes(other.read_bytes())
    with channelserver.serving(site.server.root) as server:
        site.server = server
        site.pack(sat, "--from", str(site.server.root))
    shutil.copy(tmp_path / "kept.sig", f"{sat}.sig")
    site.refused(sat, "--signers", str(signers), code=4, said="isn't me@example.org's for these bytes")


@pytest.mark.e2e
def test_what_cannot_be_written_or_read_is_named_at_once(site: Site, tmp_path: Path) -> None:
    for out, options, said in (
        (tmp_path, (), f"{tmp_path}: is a folder"),
        (tmp_path / "no" / "x.pyz", (), f"{tmp_path / 'no'}: no such folder"),
        (tmp_path / "x.pyz", ("--sign", str(tmp_path / "key")), "key: no such file; expected a private key"),
    ):
        run = site.satenv("bundle", "pack", str(out), "--variant", "cpu", *options)
        assert run.returncode == 3 and said in run.stderr and not (tmp_path / "x.pyz").exists(), run.stderr
    for path in (tmp_path, Path("/dev/zero")):  # the latter has no end to look at
        with pytest.raises(SatenvError, match="is no file; expected a bundle"):
            open_bundle(path)


def run_as_told(bundle: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python3 FILE`, as a user types it, with variables of theirs."""
    command = [os.path.realpath(sys.executable), str(bundle), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(bundle.parent), **variables}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=bundle.parent / "trap", env=environment
    )


@pytest.fixture
def trap(sat: Path) -> Path:
    """A working directory with modules of the names that a bundle loads."""
    folder = sat.parent / "trap"
    folder.mkdir()
    for name in ("hashlib", "argparse", "cogvideo_sat_env", "shlex"):  # others Python itself may load before us
        (folder / f"{name}.py").write_text("raise SystemExit('a module of the user was loaded')\n")
    return folder


def test_no_setting_of_the_user_reaches_a_bundles_code(sat: Path, trap: Path) -> None:
    for variables in ({}, {"PYTHONPATH": str(trap)}, {"PYTHONSTARTUP": str(trap / "shlex.py"), "PYTHONOPTIMIZE": "2"}):
        run = run_as_told(sat, "verify", **variables)
        assert run.returncode == 0 and "every byte" in run.stdout, run.stderr
    closed = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" "{sat}" list >&-'], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in closed.stderr and len(closed.stderr.splitlines()) <= 2, closed.stderr


def one_message(run: subprocess.CompletedProcess[str]) -> bool:
    return run.returncode not in (0, 70) and "Traceback" not in run.stderr and 0 < len(run.stderr.splitlines()) <= 2


@pytest.mark.e2e
@pytest.mark.fault("bundle-start", "error", "python3 FILE itself says that the bundle is damaged or cut short")
def test_a_damaged_bundle_says_so_itself(sat: Path, trap: Path) -> None:
    content, damaged = sat.read_bytes(), sat.parent / "damaged.pyz"
    tail = open_bundle(sat).manifest["data_size"]
    chosen = random.Random(11)
    cuts = [9, 61, 62, 511, 512, 1000, tail - 1, tail, tail + 1, len(content) - 22, len(content) - 1]
    cuts += chosen.sample(range(9, len(content)), 39)
    for size in cuts:
        damaged.write_bytes(content[:size])
        run = run_as_told(damaged, "verify")
        assert one_message(run), (size, run.stderr)
        # Python's own words where the file ends in one of the packages, which is a zip archive without a program
        assert "damaged-or-cut-short" in run.stderr or "__main__" in run.stderr or size < 60, (size, run.stderr)
    flips = [chosen.randrange(len(content)) for _ in range(100)] + [
        chosen.randrange(tail, len(content)) for _ in range(156)
    ]
    for position in flips:
        broken = bytearray(content)
        broken[position] ^= 1 << chosen.randrange(8)
        damaged.write_bytes(broken)
        run = run_as_told(damaged, "verify")
        assert one_message(run), (position - tail, run.stderr)
    for broken in (content + content, content + b"x" * 100, b"x" * 100 + content, content + bytes(70_000)):
        damaged.write_bytes(broken)
        run = run_as_told(damaged, "verify")
        assert (run.returncode == 0 and broken == content) or one_message(run), run.stderr


def test_an_older_bundle_over_a_newer_one_is_refused(site: Site, tmp_path: Path, world: Path) -> None:
    everything = airgap.locked(world, f"{site.server.url}/conda-forge")
    site.write_lock([a for a in everything if a.name != "old"])
    assert site.satenv("bundle", "pack", str(tmp_path / "v1.pyz"), "--variant", "cpu",
                       SOURCE_DATE_EPOCH="1700000000").returncode == 0  # fmt: skip
    site.write_lock([a for a in everything if a.name != "data"])
    assert site.satenv("bundle", "pack", str(tmp_path / "v2.pyz"), "--variant", "cpu",
                       SOURCE_DATE_EPOCH="1700000001").returncode == 0  # fmt: skip
    assert site.install(tmp_path / "v2.pyz").returncode == 0
    run = site.install(tmp_path / "v1.pyz", "--replace")
    assert run.returncode == 3 and "is older than the bundle" in run.stderr and "--older" in run.stderr
    assert (site.prefix / "share" / "old" / "body").exists()
    run = site.install(tmp_path / "v1.pyz", "--replace", "--older")
    assert run.returncode == 0 and not (site.prefix / "share" / "old" / "body").exists(), run.stderr
    assert site.install(tmp_path / "v2.pyz", "--replace").returncode == 3, "it was there before"


def test_the_bundles_own_install_takes_what_the_tools_takes() -> None:
    from cogvideo_sat_env.bundle import start
    from cogvideo_sat_env.cli.bundle import install

    (own,) = start.parser("x")._subparsers._group_actions
    flags = {flag for action in own.choices["install"]._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == {flag for option in install.params for flag in option.opts if flag.startswith("-")}


def test_a_mirror_with_wrong_bytes_isnt_packed(site: Site, tmp_path: Path) -> None:
    site.pack(tmp_path / "one.pyz", "--mirror", str(tmp_path / "mirror"))
    path = tmp_path / "mirror" / LINKED.removeprefix("channel/")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the zip archive's end: still readable
    path.write_bytes(content)
    run = site.satenv(
        "bundle", "pack", str(tmp_path / "two.pyz"), "--variant", "cpu", "--mirror", str(tmp_path / "mirror")
    )
    assert (
        run.returncode == 4 and "run ./scripts/satenv mirror again" in run.stderr
    ) or "no readable conda package" in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if "two" in p.name) == []


def test_a_bundle_for_another_platform_is_refused(site: Site, sat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogvideo_sat_env.bundle import install

    monkeypatch.setattr(install, "current_platform", lambda: "linux-aarch64")
    with pytest.raises(SatenvError, match="has nothing for linux-aarch64; it has linux-64-cpu"):
        install._choose(open_bundle(sat), "auto")


def test_too_little_space_is_told_before_anything_is_extracted(
    site: Site, sat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogvideo_sat_env.base.progress import Silent
    from cogvideo_sat_env.bundle import install

    opened = open_bundle(sat)
    part = install._choose(opened, "auto")
    for entry in opened.manifest["parts"]["linux-64-cpu"]["conda"]:
        entry["installed_bytes"] = 10**18
    with pytest.raises(SatenvError, match="needed for the extracted packages; only .* free"):
        install._prove_and_extract(opened, part, site.target, Silent())
    assert not list(site.target.glob("pkgs/*"))


def test_a_foreign_folder_is_refused_before_anything_is_extracted(site: Site, sat: Path) -> None:
    site.prefix.mkdir(parents=True)
    (site.prefix / "thesis.tex").write_text("mine")
    run = site.install(sat)
    assert run.returncode == 6 and "it is left alone" in run.stderr
    assert [path.name for path in site.prefix.iterdir()] == ["thesis.tex"] and not list(site.target.glob("pkgs/*"))
    spaced = site.satenv("bundle", "install", str(sat), "-p", str(site.home / "my env"), SATENV_CACHE=str(site.target))
    assert spaced.returncode == 3 and "holds a space" in spaced.stderr


def test_a_manifest_that_leads_out_is_refused(sat: Path) -> None:
    from cogvideo_sat_env.bundle.container import _read_tail, make_tail

    content, members, size = _read_tail(sat)
    manifest = json.loads(content)
    manifest["members"] = [{**manifest["members"][0], "path": "project/../../etc/passwd"}]
    forged = make_tail({**members, "manifest.json": json.dumps(manifest).encode()})
    sat.write_bytes(sat.read_bytes()[:-size] + forged)
    with pytest.raises(VerificationError, match="leads out of"):
        open_bundle(sat)


def test_what_a_killed_pack_has_left_is_removed_by_the_next(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".sat.pyz.0badcafe.partial").write_bytes(b"of a killed run")
    (tmp_path / ".sat.pyz.v01.0badcafe.partial").write_bytes(b"of a killed run")
    (tmp_path / ".other.pyz.0badcafe.partial").write_bytes(b"of another bundle")
    with open(tmp_path / ".sat.pyz.feedbeef.partial", "wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        site.pack(tmp_path / "sat.pyz")
    assert sorted(path.name for path in tmp_path.glob(".*")) == [
        ".other.pyz.0badcafe.partial", ".sat.pyz.feedbeef.partial",
    ]  # fmt: skip


def test_an_interrupted_pack_leaves_nothing(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogvideo_sat_env.bundle.write import Item, write_bundle

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_bundle(
            tmp_path / "out" / "x.pyz", [Item("a", b"1")], {"schema": 1}, volume_size=None, base=None, seen=interrupt
        )
    assert list((tmp_path / "out").iterdir()) == []
