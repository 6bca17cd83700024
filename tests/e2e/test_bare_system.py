"""On a bare Debian with python3 and venv alone, no compiler, the README's first command ends in an environment."""

from __future__ import annotations

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
    if current_platform() != "linux-64" or os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap on linux-64")
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("may not make a mount namespace")
    release = platform.freedesktop_os_release()
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirrors = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()
    root = tmp_path_factory.mktemp("bare") / "root"
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
               release.get("VERSION_CODENAME", "stable"), str(root), mirrors[0]]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if made.returncode != 0:
        pytest.skip(f"debootstrap: {made.stdout[-300:]}")
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[Path]:
    """Beside the cache, in the same mount: elsewhere no file could be linked."""
    place = cache_dir().parent / f"cogvideo-sat-bare-{os.getpid()}"
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_the_first_command_of_the_readme_needs_python_and_venv_alone(bare: Path, prefix: Path) -> None:
    assert not [name for name in ("g++", "c++", "gcc", "cc", "clang") if (bare / "usr" / "bin" / name).exists()]
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
    command = ["/project/scripts/satenv", "create", "--source", "wheels", "-p", f"/place/{prefix.name}"]
    run = subprocess.run(
        ["unshare", "-m", "sh", "-ec", ENTER, "sh", str(bare), str(airgap.PROJECT), str(cache_dir().parent),
         *(place for place in SITE if os.path.exists(place)), "--", *command],
        capture_output=True, text=True, check=False, timeout=1500,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "SATENV_CACHE": f"/place/{cache_dir().name}", **settings},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-3000:]
    assert "created from wheels" in run.stdout and "0 failed" in run.stdout
    assert "compiler" in run.stdout and "warning" in run.stdout, "it says what is slower"
