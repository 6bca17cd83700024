"""Video: clips whose pixels say which frame they are; written, decoded, seeked, truncated."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._probe import Outcome, Request, failed, last_error, passed, warning

if TYPE_CHECKING:
    import numpy as np

FPS = 8
FRAMES = 40
SIZES = ((96, 64), (320, 240), (720, 480))  # width, height; decord2 fails on the first, CogVideoX trains on the last
_BITS = 8
_TRUNCATED_LIMIT = 60.0
_NO_WRITER = "mamba install 'imageio-ffmpeg>=0.5.1' 'imageio>=2.35.1'"
_NO_DECORD = "pip install --force-reinstall --no-deps 'decord==0.6.0'"


def decord(request: Request) -> Outcome:
    """Decode every frame of clips of several sizes, in order and at random, from files and from memory."""
    import decord as library

    sizes, known = 0, None
    for width, height in SIZES:
        path = request.workdir / f"{width}x{height}.mp4"
        try:
            write_clip(path, width, height)
        except Exception as error:  # imageio and ffmpeg raise several kinds
            return failed(f"no h264 clip of {width}x{height} can be made to decode: {error}", _NO_WRITER)
        try:
            problem = _decode(library, path, width, height)
        except Exception as error:  # decord has its own exceptions, none of them documented
            problem = f"{type(error).__name__}: {last_error(str(error))}"
        if problem and (width, height) == SIZES[0] and _version().startswith("decord2 "):
            known = problem  # a limit that is documented where decord2 is the only choice (linux-aarch64)
            continue
        if problem:
            return failed(f"at {width}x{height}, {_version()}: {problem}", _NO_DECORD, size=[width, height])
        sizes += 1
    problem = _bridge(library, request.workdir / "720x480.mp4")
    if problem:
        return failed(f"{_version()}: {problem}", _NO_DECORD)
    frames = sizes * FRAMES
    finding = f"{_version()} decoded {frames} of {frames} frames exactly, at {sizes} sizes; seek and bridge work"
    if known:
        return warning(
            f"{finding}; known limit of decord2: some small sizes fail, e.g. 96x64",
            f"scale such clips before training; where decord has a wheel: {_NO_DECORD}", problem=known,
        )  # fmt: skip
    return passed(finding)


def write(request: Request) -> Outcome:
    """Write an mp4 as upstream's sampling does, read it back; a truncated one must give an error in time."""
    import imageio
    import imageio_ffmpeg
    import numpy as np

    width, height = 720, 480
    path = request.workdir / "sample.mp4"
    frames = [coded_frame(index, width, height) for index in range(FRAMES)]
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        with imageio.get_writer(str(path), fps=FPS) as writer:  # train_video.py: save_video_as_grid_and_mp4
            for frame in frames:
                writer.append_data(frame)
    except Exception as error:  # imageio raises ValueError, ImportError, RuntimeError, OSError
        return failed(f"imageio can't write an mp4: {type(error).__name__}: {error}", _NO_WRITER)
    read = [np.asarray(frame) for frame in imageio.get_reader(str(path), format="FFMPEG")]
    if len(read) != FRAMES:
        return failed(f"{FRAMES} frames written, {len(read)} read back", _NO_WRITER)
    worst = max(float(np.abs(a.astype(int) - b.astype(int)).mean()) for a, b in zip(frames, read, strict=True))
    wrong = [index for index, frame in enumerate(read) if frame_index(frame) != index]
    if wrong or worst > 8.0:  # of 255; x264's default quality leaves about 1 on these frames
        return failed(f"frames differ when read back: {len(wrong)} out of place, mean difference {worst:.1f} of 255")
    write_clip(request.workdir / "index-first.mp4", 320, 240, "-movflags", "+faststart")
    for whole in (path, request.workdir / "index-first.mp4"):  # cut off: the index of frames; half of the frames
        problem = _truncated(whole, request.workdir)
        if problem:
            return failed(problem, _NO_DECORD)
    return passed(
        f"mp4 of {FRAMES} frames written and read back (mean difference {worst:.1f} of 255); truncated files end in an"
        " error",
        ffmpeg=program, ffmpeg_version=imageio_ffmpeg.get_ffmpeg_version(), imageio=imageio.__version__,
    )  # fmt: skip


def coded_frame(index: int, width: int, height: int) -> np.ndarray:
    """Return an RGB frame with `index` as eight black or white columns in its upper half, a moving ramp below."""
    import numpy as np

    frame = np.zeros((height, width, 3), dtype=np.uint8)
    column = width // _BITS
    for bit in range(_BITS):
        frame[: height // 2, bit * column : (bit + 1) * column] = 235 if index >> bit & 1 else 16
    ramp = (np.arange(width) * 2 + index * 5) % 256
    frame[height // 2 :, :, 0] = 16 + np.abs(ramp - 128)
    frame[height // 2 :, :, 1] = 60 + index
    frame[height // 2 :, :, 2] = 120
    return frame


def frame_index(frame: Any) -> int:
    """Return the index that coded_frame put into `frame` (an array of height, width, 3)."""
    height, width = frame.shape[:2]
    column = width // _BITS
    margin = column // 4
    index = 0
    for bit in range(_BITS):
        part = frame[height // 8 : height // 2 - height // 8, bit * column + margin : (bit + 1) * column - margin]
        index |= int(float(part.mean()) > 128.0) << bit
    return index


def write_clip(path: Path, width: int, height: int, *extra: str) -> None:
    """Write FRAMES coded frames as h264 with B-frames and a key frame every twelve, so that seeking is not trivial."""
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=FPS, codec="libx264", macro_block_size=1,
        output_params=["-g", "12", "-bf", "2", *extra],
    )  # fmt: skip
    writer.send(None)
    for index in range(FRAMES):
        writer.send(coded_frame(index, width, height).tobytes())
    writer.close()
    if not path.is_file() or path.stat().st_size == 0:
        raise RuntimeError("ffmpeg wrote nothing (is its libx264 encoder missing?)")


def _decode(library: Any, path: Path, width: int, height: int) -> str | None:
    import numpy as np

    library.bridge.set_bridge("native")
    reader = library.VideoReader(str(path), height=-1, width=-1)  # as data_video.py opens it
    if len(reader) != FRAMES:
        return f"the clip has {FRAMES} frames, decord says {len(reader)}"
    if abs(reader.get_avg_fps() - FPS) > 0.01:
        return f"the clip has {FPS} frames a second, decord says {reader.get_avg_fps():.3f}"
    batch = reader.get_batch(list(range(FRAMES))).asnumpy()
    if batch.shape != (FRAMES, height, width, 3):
        return f"get_batch gives the shape {batch.shape}, expected {(FRAMES, height, width, 3)}"
    reference = _ffmpeg_frames(path, width, height)
    for index in range(FRAMES):
        if frame_index(batch[index]) != index:
            return f"get_batch gives frame {frame_index(batch[index])} for frame {index}"
        difference = float(np.abs(batch[index].astype(int) - reference[index].astype(int)).mean())
        if difference > 2.0:  # of 255; 0.00 where both convert colours alike
            return f"frame {index} differs from ffmpeg's by {difference:.1f} of 255 on average"
    shuffled = np.random.default_rng(7).permutation(FRAMES).tolist()
    for index in shuffled:
        got = frame_index(reader[index].asnumpy())
        if got != index:
            return f"random access gives frame {got} for frame {index}"
    backwards = reader.get_batch(shuffled[:9]).asnumpy()
    if [frame_index(frame) for frame in backwards] != shuffled[:9]:
        return f"get_batch of unordered indices gives {[frame_index(frame) for frame in backwards]}"
    reader.seek_accurate(17)
    if frame_index(reader.next().asnumpy()) != 17:
        return "seek_accurate(17) gives another frame"
    stamps = reader.get_frame_timestamp(list(range(FRAMES)))[:, 0]
    if float(np.abs(stamps - np.arange(FRAMES) / FPS).max()) > 1e-3:
        return f"the timestamp of frame {FRAMES - 1} is {float(stamps[-1]):.3f} s, expected {(FRAMES - 1) / FPS:.3f} s"
    memory = library.VideoReader(io.BytesIO(path.read_bytes()), height=-1, width=-1)
    if len(memory) != FRAMES or frame_index(memory[FRAMES // 2].asnumpy()) != FRAMES // 2:
        return "a clip in memory (BytesIO, as sharded data has it) is decoded differently"
    return None


def _bridge(library: Any, path: Path) -> str | None:
    import torch

    library.bridge.set_bridge("torch")
    try:
        batch = library.VideoReader(str(path), height=-1, width=-1).get_batch([3, 1, 2])
    finally:
        library.bridge.set_bridge("native")
    if not isinstance(batch, torch.Tensor):
        return f"the torch bridge gives {type(batch).__name__}, not a tensor"
    found = [frame_index(frame.float()) for frame in batch]
    return None if found == [3, 1, 2] else f"the torch bridge gives the frames {found}, expected [3, 1, 2]"


def _ffmpeg_frames(path: Path, width: int, height: int) -> np.ndarray:
    import imageio_ffmpeg
    import numpy as np

    program = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run(
        [program, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3)


def _truncated(path: Path, workdir: Path) -> str | None:
    """A file cut in half must end in an exception: no hang, no crash, no silent success."""
    broken = workdir / "truncated.mp4"
    content = path.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    code = (
        "import sys, decord\n"
        "reader = decord.VideoReader(sys.argv[1])\n"
        "print('frames', reader.get_batch(list(range(len(reader)))).shape)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-c", code, str(broken)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=_TRUNCATED_LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"decord hangs on a truncated mp4 (over {_TRUNCATED_LIMIT:.0f} s)"
    if done.returncode < 0:
        return f"decord crashes on a truncated mp4 (signal {-done.returncode})"
    if done.returncode == 0:
        return f"decord takes a truncated mp4 for whole: {last_error(done.stdout)}"
    return None


def _version() -> str:
    from importlib import metadata

    for name in ("decord", "decord2", "eva-decord"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "decord"
