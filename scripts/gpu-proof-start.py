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
TAG = "cp%d%d" % sys.version_info[:2]  # noqa: UP031


def unpacked() -> Path:
    """Return the folder of the unpacked payload: beside this file, or, where that can't be written, in TMPDIR."""
    place = HERE / "lib"
    if not place.is_dir():
        parent = HERE if os.access(HERE, os.W_OK) else Path(tempfile.mkdtemp(prefix="gpu-proof-"))
        place = parent / "lib"
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=".lib-"))
        try:
            with tarfile.open(HERE / "payload.tar.xz") as archive:
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(partial, filter="data")
                else:
                    archive.extractall(partial)
            os.chmod(partial, 0o755)
            os.rename(partial, place)
        except FileExistsError:  # another process was quicker
            shutil.rmtree(partial)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not place.is_dir():
                raise
    return place


def main() -> None:
    """Replace this process by the one that was asked for."""
    try:
        place = unpacked()
    except (ImportError, tarfile.CompressionError) as error:
        sys.exit(f"gpu-proof: {sys.executable} can't unpack xz: {error}\n  PYTHON=/path/to/another/python ./run")
    except OSError as error:
        sys.exit(f"gpu-proof: {HERE}: {error}; expected room for 400 MB\n  export TMPDIR with a folder that has it")
    folders = [path for path in sorted(place.iterdir()) if path.name == "any" or TAG in path.name.split("-")]
    if not any(TAG in path.name for path in folders):
        sys.exit(f"gpu-proof: {sys.executable} is Python {sys.version.split()[0]}; there are packages for 3.10 to 3.13"
                 "\n  PYTHON=python3.12 ./run")  # fmt: skip
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
        "pytest": ["-m", "pytest", "-m", "gpu", "-c", os.devnull, "--rootdir", str(HERE), str(HERE / "tests" / "gpu")],
    }
    given = sys.argv[1:]
    if given and given[0] in commands:
        command = [*commands[given[0]], *given[1:]]
    else:
        command = ["-m", "cogvideo_sat_env.doctor.gpu_proof", str(HERE), *given]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
