"""Unpacks what came along for this Python, once, and runs the proof, the doctor or pytest with it (see run)."""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - it runs before any version is known
    sys.exit("gpu-proof: %s is Python %s; 3.10 to 3.13 is needed\n  PYTHON=python3.12 ./run" % (  # noqa: UP031
        sys.executable, sys.version.split()[0]))  # fmt: skip

import shutil
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAYLOAD = HERE / "payload.tar.xz"
sys.path.insert(0, str(HERE / "src"))
TAG = "cp%d%d" % sys.version_info[:2]  # noqa: UP031


def stop(code: int, problem: str, remedy: str) -> None:
    """End with one message and an exit code of the project's (base/errors.py)."""
    sys.stderr.write(f"gpu-proof: {problem}\n  {remedy}\n")
    sys.exit(code)


def home() -> Path:
    """Return a folder that can be written: this one, or one of this user's own in TMPDIR."""
    if os.access(HERE, os.W_OK):
        return HERE
    folder = Path(tempfile.gettempdir(), f"gpu-proof-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        stop(6, f"{folder} is not this user's own", "export TMPDIR with a folder that is")  # its code would be run
    return folder


def unpacked() -> Path:
    """Return the folder of the unpacked payload, named by its bytes."""
    from cogvideo_sat_env.base.hashing import sha256_file

    name = f"lib-{sha256_file(PAYLOAD)[:16]}"
    if (HERE / name).is_dir():
        return HERE / name
    parent = home()
    place = parent / name
    if place.is_dir():
        return place
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=".lib-"))
    try:
        with tarfile.open(PAYLOAD) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(partial, filter="data")
            else:
                archive.extractall(partial)
        os.chmod(partial, 0o755)
        os.rename(partial, place)
    except OSError:
        if not place.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after the rename there is none
    return place


def main() -> None:
    """Replace this process by the one that was asked for."""
    try:
        import lzma

        place = unpacked()
    except ImportError as error:
        stop(8, f"{sys.executable} can't unpack xz: {error}", "PYTHON=/path/to/another/python ./run")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        stop(4, f"{PAYLOAD} is damaged: {error}", "unpack the file again, or copy it again")
    except OSError as error:
        stop(6, f"can't unpack: {error}; expected room for 400 MB", "export TMPDIR with a folder that has it")
    folders = [path for path in sorted(place.iterdir()) if path.name == "any" or TAG in path.name.split("-")]
    if not any(TAG in path.name for path in folders):
        found = f"{sys.executable} is Python {sys.version.split()[0]}"
        stop(8, f"{found}; there are packages for 3.10 to 3.13", "PYTHON=python3.12 ./run")
    programs = [str(path / "bin") for path in folders if (path / "bin").is_dir()]
    folders.insert(0, HERE / "src")
    if not all(map(find_spec, ("datasets", "wandb"))):  # a stand-in hides what comes later: only where it has to
        folders.append(HERE / "src" / "cogvideo_sat_env" / "doctor" / "stand_ins")
    theirs = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *theirs])
    os.environ["PATH"] = os.pathsep.join([*programs, os.environ.get("PATH", os.defpath)])
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # SAT's own checkpoints, with torch 2.6 and newer
    commands = {
        "satenv": ["-m", "cogvideo_sat_env.doctor"],  # what remedies tell to type
        "doctor": ["-m", "cogvideo_sat_env.doctor", "doctor", "--python", sys.executable],
        "pytest": ["-m", "pytest", "-m", "gpu", "-c", os.devnull, "-o", "markers=gpu: need a GPU",
                   "--rootdir", str(HERE), str(HERE / "tests" / "gpu")],
    }  # fmt: skip
    given = sys.argv[1:]
    if given and given[0] in commands:
        command = [*commands[given[0]], *given[1:]]
    else:
        command = ["-m", "cogvideo_sat_env.doctor.gpu_proof", str(HERE), *given]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
