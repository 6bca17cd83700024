"""On a bare Debian with python3 and venv alone, no compiler, the README's first command ends in an environment."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import airgap
from cogvideo_sat_env.base.paths import cache_dir, current_platform

pytestmark = pytest.mark.e2e
# what tells pip and TLS of this site how the package index is reached
SITE = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs/ca-certificates.crt",
    "/opt/wheels",
)  # fmt: skip
ENTER = """
root=$1; project=$2; place=$3; shift 3
for kernel in proc sys dev; do mount --rbind /$kernel "$root/$kernel"; done
mkdir -p "$root/project" "$root/place"
mount --bind -o ro "$project" "$root/project"
mount --bind "$place" "$root/place"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$(dirname "$root$1")"; touch "$root$1"; fi
    mount --bind "$1" "$root$1"
    shift
done
shift
exec chroot "$root" "$@"
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A minimal Debian from the mirror that this machine has configured."""
    if current_platform() != "linux-64" or os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap on linux-64")
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("may not make a mount namespace")
    release = platform.freedesktop_os_release()
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirrors = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()
    root = tmp_path_factory.mktemp("bare") / "root"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
               "--dpkgopt=force-unsafe-io", release.get("VERSION_CODENAME", "stable"), str(root), mirrors[0]]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if made.returncode != 0:
        pytest.skip(f"mmdebstrap: {made.stderr[-300:]}")
    yield root
    shutil.rmtree(root, ignore_errors=True)


def enter(root: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the system at `root`, as one of a machine of its own with this site's way to the package index."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", ENTER, "sh", str(root), str(airgap.PROJECT), str(cache_dir().parent),
         *(place for place in SITE if os.path.exists(place)), "--", *command],
        capture_output=True, text=True, check=False, timeout=1500,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "SATENV_CACHE": f"/place/{cache_dir().name}", **settings, **variables},
    )  # fmt: skip


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[Path]:
    """Beside the cache, in the same mount: elsewhere no file could be linked."""
    place = cache_dir().parent / f"cogvideo-sat-bare-{os.getpid()}"
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_the_first_command_of_the_readme_needs_python_and_venv_alone(bare: Path, prefix: Path) -> None:
    assert not [name for name in ("g++", "c++", "gcc", "cc", "clang") if (bare / "usr" / "bin" / name).exists()]
    run = enter(bare, "/project/scripts/satenv", "create", "--source", "wheels", "-p", f"/place/{prefix.name}")
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-3000:]
    assert "created from wheels" in run.stdout and "0 failed" in run.stdout
    assert "compiler" in run.stdout and "warning" in run.stdout, "it says what is slower"


def unpack(image: Path, digest: str, root: Path) -> None:
    """Unpack an image whose layers only add, each deleted as soon as it is unpacked: 8 GB less on the disk."""
    blobs = image / "blobs" / "sha256"
    root.mkdir()
    for layer in json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())["layers"]:
        archive = blobs / layer["digest"].removeprefix("sha256:")
        subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
        archive.unlink()


def test_a_container_image_on_it_passes_the_doctor_where_it_is_unpacked(bare: Path, tmp_path: Path) -> None:
    """tar unpacks layers that aren't compressed, to save minutes: umoci and compressed ones are in test_oci.py."""
    if shutil.which("skopeo") is None:
        pytest.skip("no skopeo on this machine (Debian: apt install skopeo)")
    python = Path("/usr/bin") / os.readlink(bare / "usr" / "bin" / "python3")
    if not python.exists():
        pytest.skip(f"no {python} on this machine, as the bare system has")
    if shutil.disk_usage(tmp_path).free < 12_000_000_000:
        pytest.skip("needs 12 GB of disk")
    out, recipe, root = tmp_path / "oci", tmp_path / "Dockerfile", tmp_path / "root"
    made = subprocess.run(
        [airgap.PROJECT / "scripts" / "satenv", "image", out, "--base", bare, "--source", "wheels", "--python", python,
         "--compression", "none", "--tag", "t1", "--json", "--dockerfile", recipe],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-3000:]
    written = json.loads(made.stdout)
    assert f"create --source wheels --python {python} -p /opt/cogvideo-sat\n" in recipe.read_text()
    shown = subprocess.run(["skopeo", "inspect", f"oci:{out}:t1"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["Digest"] == written["digest"]
    large = [layer["name"] for layer in written["layers"] if layer["bytes"] > 500_000_000]
    assert "package pytorch" in large and len(written["layers"]) < 90
    unpack(out.resolve(), written["digest"], root)
    active = (
        ". /opt/cogvideo-sat/bin/activate-cogvideo-sat && exec python -m cogvideo_sat_env.doctor --level quick --json"
    )
    run = enter(root, "/bin/sh", "-c", active, PYTHONPATH="/project/src")
    shutil.rmtree(tmp_path)
    report = json.loads(run.stdout)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert (
        report["prefix"] == "/opt/cogvideo-sat" and report["counts"]["failed"] == 0 and report["counts"]["passed"] > 10
    )
