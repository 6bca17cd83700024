"""A small project on a loopback package index: native wheel, scripts, data, sdist, shared namespace, program."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch.wanted import artefact_path
from cogvideo_sat_env.source.wheels.channel import WheelChannel, build_channel
from cogvideo_sat_env.source.wheels.interpreter import probe
from cogvideo_sat_env.source.wheels.lockfile import lock_name, spec_hash
from cogvideo_sat_env.source.wheels.make_lock import make_wheel_lock
from cogvideo_sat_env.spec.environment import Environment, read_environment
from conftest import shared
from source.wheels.wheelindex import BACKEND, NATIVE, Index, make_sdist, make_wheel, use_index

PYTHON = Path(sys.executable)
SPEC = """\
name: small
channels: [conda-forge]
dependencies:
  - python 3.11.*
  - pytorch >=2.5.1,<2.11 cuda*  # the build glob is conda's own
  - einops >=0.8
  - ffmpeg
  - cuda-nvcc
  - pip:
    - deepspeed >=0.15.3
    - tensorboardX <3
"""


def fill(folder: Path) -> None:
    """Write the files of the small index."""
    folder.mkdir()
    minor = f"{sys.version_info[0]}{sys.version_info[1]}"
    make_wheel(
        folder, "torch", "2.10.0", tag=NATIVE.format(minor=minor),
        requires=("nvidia-a-cu12==1.0; sys_platform == 'linux'", "nvidia-b-cu12", "colorama; sys_platform == 'win32'"),
        files={"torch/__init__.py": "x = 1\n", "torch/version.py": "from typing import Optional\ncuda: Optional[str] = '12.8'\n"},
    )  # fmt: skip
    make_wheel(folder, "torch", "2.10.0+cpu", tag=NATIVE.format(minor=minor))
    for letter in "ab":
        make_wheel(
            folder, f"nvidia-{letter}-cu12", "1.0",
            files={"nvidia/__init__.py": "", f"nvidia/{letter}/__init__.py": "", f"nvidia/{letter}/lib/.keep": "kept"},
        )  # fmt: skip
    make_wheel(
        folder, "einops", "0.8.2", requires=("fsspec[http]>=1; extra != 'x'",), extra="License-Expression: MIT\n",
        executable=("einops/tool.sh",),
        files={
            "einops/__init__.py": "def main():\n    import sys\n    print('einops at', sys.prefix)\n",
            "einops/tool.sh": "#!/bin/sh\n",
            "einops/broken_template.py": "def {name}:\n",
            "einops-0.8.2.dist-info/entry_points.txt": "[console_scripts]\neinops-say = einops:main\n",
            "einops-0.8.2.data/scripts/einops-old": "#!python\nimport einops\neinops.main()\n",
            "einops-0.8.2.data/data/share/man/man1/einops.1": "manual\n",
            "einops-0.8.2.data/headers/einops.h": "#define EINOPS 1\n",
            "einops-0.8.2.dist-info/licenses/LICENSE": "MIT\n",
        },
    )  # fmt: skip
    make_wheel(folder, "fsspec", "2026.9.0", requires=("tqdm>=4; extra == 'http'",), extra="Provides-Extra: http\n")
    make_wheel(folder, "tqdm", "4.70.1")
    make_wheel(folder, "tensorboardX", "2.6.5", requires=("typing-extensions~=4.1",))
    make_wheel(folder, "typing_extensions", "4.16.0", files={"typing_extensions.py": "y = 2\n"})
    make_wheel(
        folder, "imageio-ffmpeg", "0.8.1", executable=("imageio_ffmpeg/binaries/ffmpeg-linux-v9.0.2",),
        files={
            "imageio_ffmpeg/__init__.py": "",
            "imageio_ffmpeg/binaries/README.md": "no program",
            "imageio_ffmpeg/binaries/ffmpeg-linux-v9.0.2": "#!/bin/sh\necho ffmpeg version n9.0.2-17-gabc Copyright\n",
        },
    )  # fmt: skip
    make_wheel(folder, "minibackend", "1.0", files={"minibackend.py": BACKEND})
    make_sdist(folder)


@dataclass(frozen=True)
class Made:
    """What one session makes once: the files of the index, the lock, the cache with its channel."""

    folder: Path
    lock: Path
    cache: Path
    channel: WheelChannel


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The small project, locked and converted. Read only: tests that change something copy it first."""
    return shared(tmp_path_factory, "wheels", _make)


def _make(root: Path) -> Made:
    fill(root / "index")
    served = Index(root / "index")
    (root / "environment.yml").write_text(SPEC)
    spec = read_environment(root / "environment.yml")
    with pytest.MonkeyPatch.context() as patch:
        use_index(patch, served.url)
        lock = make_wheel_lock(spec, python=PYTHON, out_dir=root / "locks", progress=Silent())
        channel = build_channel(spec, lock, python=PYTHON, cache=root / "cache", progress=Silent())
    served.close()
    return Made(root / "index", lock, root / "cache", channel)


def keep(cache: Path, *files: Path) -> Path:
    """Have `files` in the cache, as if pip had downloaded them; return the cache."""
    for file in files:
        path = artefact_path(cache, sha256_file(file), file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    return cache


def pinned(spec: Environment, folder: Path, *wheels: Path) -> Path:
    """Write the lock that pip would make of these wheels, without the second that pip takes."""
    python = probe(PYTHON)
    lines = [f"# platform: {python.platform}", f"# python: {python.minor}", f"# spec-sha256: {spec_hash(spec)}"]
    for wheel in sorted(wheels):
        name, version, *_ = wheel.name.split("-")
        lines.append(f"{name}=={version} --hash=sha256:{sha256_file(wheel)}  # {wheel.name}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / lock_name(python.platform, python.minor)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def index(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """A loopback package index with the files of the small project, and pip configured for it alone."""
    shutil.copytree(made.folder, tmp_path / "index")
    served = Index(tmp_path / "index")
    use_index(monkeypatch, served.url)
    yield served
    served.close()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """The environment file that the small index can satisfy."""
    path = tmp_path / "environment.yml"
    path.write_text(SPEC)
    return read_environment(path)


@pytest.fixture
def small_lock(made: Made, index: Index, tmp_path: Path) -> Path:
    """The wheel lock of the small project for the Python that runs the tests, and the index that it is of."""
    shutil.copytree(made.lock.parent, tmp_path / "locks")
    return tmp_path / "locks" / made.lock.name


@pytest.fixture
def downloaded(made: Made, tmp_path: Path) -> Path:
    """A cache in which everything is downloaded and built, and nothing converted yet."""
    for name in ("artefacts", "built"):
        shutil.copytree(made.cache / name, tmp_path / "downloaded" / name)
    return tmp_path / "downloaded"


@pytest.fixture
def warm_cache(made: Made, tmp_path: Path) -> Path:
    """A cache in which everything is converted already."""
    shutil.copytree(made.cache, tmp_path / "cache")
    return tmp_path / "cache"
