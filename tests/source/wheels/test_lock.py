"""The wheel lock: pip's answer on the configured index, pinned by hash, the same each time."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, SolveError, SourceError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.source.wheels import make_lock as lock_module
from cogvideo_sat_env.source.wheels.interpreter import probe
from cogvideo_sat_env.source.wheels.lockfile import build_lock_path, default_lock, lock_name, read_wheel_lock, spec_hash
from cogvideo_sat_env.source.wheels.make_lock import make_wheel_lock
from cogvideo_sat_env.spec.environment import Environment, read_environment
from source.wheels.conftest import PYTHON
from source.wheels.wheelindex import Index, make_wheel


@pytest.mark.slow
def test_the_lock_pins_every_file_with_its_hash(index: Index, small_lock: Path, environment: Environment) -> None:
    lock = read_wheel_lock(small_lock)
    assert [pin.name for pin in lock.pins] == [
        "deepspeed", "einops", "fsspec", "imageio-ffmpeg", "nvidia-a-cu12", "nvidia-b-cu12", "tensorboardx", "torch",
        "tqdm", "typing-extensions",
    ]  # fmt: skip
    for pin in [*lock.pins, *lock.build]:
        assert hashlib.sha256((index.folder / pin.file_name).read_bytes()).hexdigest() == pin.sha256
    assert [pin.name for pin in lock.build] == ["minibackend"]
    assert lock.spec_hash == spec_hash(environment)
    assert small_lock.name == lock_name(lock.platform, lock.python)


@pytest.mark.slow
def test_a_local_version_never_gets_into_the_lock(index: Index, small_lock: Path) -> None:
    assert list(index.folder.glob("torch-2.10.0+cpu-*.whl"))  # the version that pip prefers
    torch = next(pin for pin in read_wheel_lock(small_lock).pins if pin.name == "torch")
    assert torch.version == "2.10.0"
    assert "+cpu" not in small_lock.read_text()


@pytest.mark.slow
def test_no_address_gets_into_the_lock(index: Index, small_lock: Path) -> None:
    for path in (small_lock, build_lock_path(small_lock)):
        assert "127.0.0.1" not in path.read_text()
        assert "://" not in path.read_text()


@pytest.mark.e2e
def test_the_same_input_gives_the_same_bytes(
    small_lock: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("build_venv", "build_sdist"):  # the first lock's sdist was built, and is the same
        monkeypatch.setattr(lock_module, name, lambda *_: Path())
    again = make_wheel_lock(environment, python=PYTHON, out_dir=tmp_path / "again", progress=Silent())
    assert again.read_bytes() == small_lock.read_bytes()
    assert build_lock_path(again).read_bytes() == build_lock_path(small_lock).read_bytes()


@pytest.mark.slow
def test_a_build_lock_that_is_not_needed_goes_away(index: Index, small_lock: Path, tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("channels: [conda-forge]\ndependencies: [python 3.11.*, einops]\n")
    make_wheel_lock(read_environment(path), python=PYTHON, out_dir=small_lock.parent, progress=Silent())
    assert not build_lock_path(small_lock).exists()
    assert read_wheel_lock(small_lock).build == ()


@pytest.mark.slow
def test_a_name_that_the_index_lacks_is_named(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("channels: [conda-forge]\ndependencies: [python 3.11.*, kornia >=0.7.3]\n")
    with pytest.raises(SourceError, match="has no file for kornia"):
        make_wheel_lock(read_environment(path), python=PYTHON, out_dir=tmp_path / "out", progress=Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bounds_that_exclude_each_other_are_a_solve_error(index: Index, tmp_path: Path) -> None:
    make_wheel(index.folder, "kornia", "0.9.0", requires=("einops<0.8",))
    make_wheel(index.folder, "einops", "0.7")
    path = tmp_path / "environment.yml"
    path.write_text("channels: [conda-forge]\ndependencies: [python 3.11.*, kornia, einops >=0.8]\n")
    with pytest.raises(SolveError, match="einops"):
        make_wheel_lock(read_environment(path), python=PYTHON, out_dir=tmp_path / "out", progress=Silent())


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_is_a_source_error(
    environment: Environment, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/index/")
    monkeypatch.setenv("PIP_RETRIES", "1")  # without a retry pip doesn't say why
    with pytest.raises(SourceError, match="can't be reached"):
        make_wheel_lock(environment, python=PYTHON, out_dir=tmp_path / "out", progress=Silent())


GOOD = (
    "# platform: linux-64\n# python: 3.11\n# spec-sha256: 00\n"
    f"einops==0.8.2 --hash=sha256:{'0' * 64}  # einops-0.8.2-py3-none-any.whl\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("0" * 64, "xyz"), r":4: .*expected `name==version"),
        (GOOD.replace("  # einops-0.8.2-py3-none-any.whl", ""), r":4: .*expected `name==version"),
        (GOOD.replace("==0.8.2 ", "==0.8.2+cpu "), r":4: 0\.8\.2\+cpu has a local part"),
        (GOOD + GOOD.splitlines()[-1] + "\n", r":5: einops is out of order or stands twice"),
        (GOOD.replace("# python: 3.11\n", ""), r":1: no python"),
        ("".join(GOOD.splitlines(keepends=True)[:3]), r":1: no pins"),
    ],
)
def test_a_broken_lock_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wheels-linux-64-py311.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"wheels-linux-64-py311\.txt" + message):
        read_wheel_lock(path)


def test_a_good_lock_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wheels-linux-64-py311.txt"
    path.write_text(GOOD)
    assert [pin.version for pin in read_wheel_lock(path).pins] == ["0.8.2"]


def test_a_python_without_a_lock_is_told_which_have_one(tmp_path: Path) -> None:
    python = probe(PYTHON)
    (tmp_path / f"wheels-{python.platform}-py399.txt").touch()
    with pytest.raises(InputError, match=rf"no wheel lock for {python.platform} .*wheels-{python.platform}-py399"):
        default_lock(tmp_path, python)


def test_the_spec_hash_ignores_order_and_comments_but_no_bound(environment: Environment, tmp_path: Path) -> None:
    text = environment.path.read_text()
    other = tmp_path / "other.yml"
    other.write_text(
        re.sub("  # the build.*", "", text).replace("  - einops >=0.8\n  - ffmpeg\n", "  - ffmpeg\n  - einops >=0.8\n")
    )
    assert spec_hash(read_environment(other)) == spec_hash(environment)
    other.write_text(text.replace("einops >=0.8", "einops >=0.9"))
    assert spec_hash(read_environment(other)) != spec_hash(environment)


def test_the_committed_locks_are_of_the_committed_spec() -> None:
    from cogvideo_sat_env.base.paths import project_root

    root = project_root()
    environment = read_environment(root / "environment.yml")
    paths = sorted((root / "locks").glob("wheels-linux-64-py*.txt"))
    assert root / "locks" / "wheels-linux-64-py311.txt" in paths
    for path in paths:
        assert read_wheel_lock(path).spec_hash == spec_hash(environment), f"{path}: make it again"
