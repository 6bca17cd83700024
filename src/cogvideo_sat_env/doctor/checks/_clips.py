"""Clips whose pixels say which frame they are: written with ffmpeg, read back with decord."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FPS = 8
FRAMES = 40
_BITS = 8


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


def write_clip(path: Path, width: int, height: int, *extra: str, frames: int = FRAMES) -> None:
    """Write coded frames as h264 with B-frames and a key frame every twelve, so that seeking is not trivial."""
    encode(path, width, height, "libx264", "yuv420p", "-g", "12", "-bf", "2", *extra, frames=frames)


def encode(path: Path, width: int, height: int, encoder: str, pixels: str, *extra: str, frames: int = FRAMES) -> None:
    """Write coded frames with one of ffmpeg's encoders. Raises RuntimeError with ffmpeg's last words."""
    done = _ffmpeg(
        "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS),
        "-i", "-", "-c:v", encoder, "-pix_fmt", pixels, *extra, str(path),
        content=b"".join(coded_frame(index, width, height).tobytes() for index in range(frames)),
    )  # fmt: skip
    if done.returncode or not path.is_file() or path.stat().st_size == 0:
        output = [line.strip() for line in done.stderr.decode("utf-8", errors="replace").splitlines() if line.strip()]
        raise RuntimeError(f"ffmpeg can't encode with {encoder}: {output[0] if output else 'no reason given'}")


def encoders() -> set[str]:
    """Return the names of the video encoders that the environment's ffmpeg has."""
    lines = _ffmpeg("-hide_banner", "-encoders").stdout.decode("utf-8", errors="replace").splitlines()
    return {line.split()[1] for line in lines if line.startswith(" V") and len(line.split()) > 1}


def problem_of(library: Any, path: Path, width: int, height: int, by_ffmpeg: bool = True) -> str | None:
    """Decode the clip at `path` in every way that upstream does; return what is wrong, or None.

    All frames against ffmpeg's and their own index, at random, out of order, after a seek, with their time stamps, and
    from memory. `library` is decord. Where there is no ffmpeg (`by_ffmpeg` false) the frames are compared with those
    that were coded.
    """
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
    if by_ffmpeg:
        reference, most = ffmpeg_frames(path, width, height), 2.0  # of 255; 0.00 where both convert colours alike
    else:
        reference, most = np.stack([coded_frame(index, width, height) for index in range(FRAMES)]), 8.0  # x264's loss
    for index in range(FRAMES):
        if frame_index(batch[index]) != index:
            return f"get_batch gives frame {frame_index(batch[index])} for frame {index}"
        difference = float(np.abs(batch[index].astype(int) - reference[index].astype(int)).mean())
        if difference > most:
            whose = "ffmpeg's" if by_ffmpeg else "what was coded"
            return f"frame {index} differs from {whose} by {difference:.1f} of 255 on average"
    return _random_access(library, reader, path)


def _random_access(library: Any, reader: Any, path: Path) -> str | None:
    import numpy as np

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


def ffmpeg_frames(path: Path, width: int, height: int) -> np.ndarray:
    """Return all frames of a clip as ffmpeg decodes them: an array of frames, height, width, 3."""
    import numpy as np

    done = _ffmpeg("-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3)


def _ffmpeg(*arguments: str, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the environment's ffmpeg; what needs no `content` on its input must succeed (CalledProcessError)."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), *arguments]
    return subprocess.run(command, input=content or b"", capture_output=True, timeout=120, check=content is None)
