"""Video: clips whose pixels say which frame they are; written, decoded, seeked, resized, broken."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import _clips
from ._clips import FPS, FRAMES, coded_frame, frame_index, write_clip
from ._prefix import DECORDS, installed
from ._probe import ProbeOutcome, ProbeRequest, failed, last_error, passed, run_joined, warning

SIZES = ((96, 64), (320, 240), (720, 480))  # width, height; decord2 fails on the first, CogVideoX trains on the last
READY = (320, 240)  # of the clip of coded frames that the setting video.clip names: write_clip has made it elsewhere
# Width, height and pixel format of clips that phones and screen recorders make: odd, portrait, no multiple of 16.
ODD_SIZES = ((161, 97, "yuv444p"), (322, 242, "yuv420p"), (200, 360, "yuv420p"), (426, 240, "yuv420p"))
# codec: encoder, container, options
CODECS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "h264": ("libx264", "mp4", ("-bf", "2")),
    "hevc": ("libx265", "mp4", ("-x265-params", "log-level=error:open-gop=0")),
    "vp9": ("libvpx-vp9", "webm", ("-deadline", "realtime", "-cpu-used", "8")),
    "mpeg4": ("mpeg4", "mp4", ("-q:v", "3")),
    "av1": ("libsvtav1", "mp4", ("-preset", "12")),
}
# Variants in which decord 0.6.0 is known to give wrong frames after a seek (measured): reported, and no fault of this
# environment's.
LIMITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hevc with open groups of pictures (x265's default)": ("hevc", ("-x265-params", "log-level=error:open-gop=1")),
    "mpeg4 with B-frames": ("mpeg4", ("-q:v", "3", "-bf", "2")),
}
_NEEDED = ("h264",)
_NO_DECODER = ("av1",)  # decord's own FFmpeg, of 2019, has none
_SECONDS = 60.0  # for a broken file
_NO_DECORD = "pip install --force-reinstall --no-deps 'decord==0.6.0'"
_TRANSCODE = "before training, make h264 of such clips: ffmpeg -i IN -c:v libx264 OUT.mp4"


def _no_writer() -> str:
    """Return what to do when no clip can be written: another ffmpeg may have been named in imageio's variable."""
    if os.environ.get("IMAGEIO_FFMPEG_EXE"):
        return "unset IMAGEIO_FFMPEG_EXE"
    return "mamba install 'imageio-ffmpeg>=0.5.1' 'imageio>=2.35.1'"


def decord(request: ProbeRequest) -> ProbeOutcome:
    """Decode every frame of clips of several sizes, in order and at random, from files and from memory."""
    import decord as library

    ready = request.options.get("video.clip")
    if ready:
        problem = _decode(library, Path(ready), *READY, by_ffmpeg=False)
        if problem:
            return failed(f"of {ready}, {_version()}: {problem}", _NO_DECORD)
        return passed(f"{_version()} decoded {FRAMES} of {FRAMES} frames of the clip that was brought; seek works")
    sizes, known = 0, None
    for width, height in SIZES:
        path = request.workdir / f"{width}x{height}.mp4"
        try:
            write_clip(path, width, height)
        except Exception as error:  # imageio and ffmpeg raise several kinds
            return failed(f"no h264 clip of {width}x{height} can be made to decode: {error}", _no_writer())
        problem = _decode(library, path, width, height)
        if problem and (width, height) == SIZES[0] and _version().startswith("decord2 "):
            known = problem  # a limit that is documented where decord2 is the only choice (linux-aarch64)
            continue
        if problem:
            return failed(f"at {width}x{height}, {_version()}: {problem}", _NO_DECORD, size=[width, height])
        sizes += 1
    frames = sizes * FRAMES
    finding = f"{_version()} decoded {frames} of {frames} frames exactly, at {sizes} sizes; seek works"
    if known:
        return warning(
            f"{finding}; known limit of decord2: some small sizes fail, e.g. 96x64",
            f"scale such clips before training; where decord has a wheel: {_NO_DECORD}", problem=known,
        )  # fmt: skip
    return passed(finding)


def bridge(request: ProbeRequest) -> ProbeOutcome:
    """Frames come as torch tensors, as upstream's datasets ask for them."""
    import decord as library

    ready = request.options.get("video.clip")
    path = Path(ready or request.workdir / "bridge.mp4")
    try:
        if not ready:
            write_clip(path, *SIZES[1], frames=4)
    except Exception as error:  # imageio and ffmpeg raise several kinds
        return failed(f"no h264 clip can be made to decode: {error}", _no_writer())
    problem = _bridge(library, path)
    if problem:
        return failed(f"{_version()}: {problem}", _NO_DECORD)
    return passed(f"{_version()} gives torch tensors of the frames that were asked for")


def codecs(request: ProbeRequest) -> ProbeOutcome:
    """Decode what the environment's ffmpeg can encode: every frame, its time, at random."""
    import decord as library

    encoders = _clips.encoders()
    good, notes, problems = [], [], {}
    for codec, (encoder, container, options) in CODECS.items():
        path = request.workdir / f"{codec}.{container}"
        if encoder not in encoders:
            notes.append(f"{codec} not tried (ffmpeg has no {encoder})")
            continue
        try:
            _clips.encode(path, 320, 240, encoder, "yuv420p", "-g", "12", *options)
        except RuntimeError as error:
            if codec in _NEEDED:
                return failed(str(error), _no_writer())
            notes.append(f"{codec} not tried ({error})")
            continue
        problem = _decode(library, path, 320, 240)
        if problem is None:
            good.append(codec)
        elif codec in _NO_DECODER:
            notes.append(f"{codec} can't be decoded by {_version()}")
        else:
            problems[codec] = problem
    details: dict[str, Any] = {"decoded": good, "notes": notes, "problems": problems}
    if problems:
        needed = any(codec in _NEEDED for codec in problems)
        judge = failed if needed else warning
        text = "; ".join(f"{codec}: {problem}" for codec, problem in problems.items())
        return judge(f"{_version()}: {text}", _NO_DECORD if needed else _TRANSCODE, **details)
    shifted = [name for name, (codec, _) in LIMITS.items() if codec in good and _shifts(library, request.workdir, name)]
    if shifted:
        notes.append(f"wrong frames after a seek in {' and in '.join(shifted)}: make h264 of such clips")
    output = f"; known limits: {'; '.join(notes)}" if notes else ""
    return passed(f"{_version()} decodes {', '.join(good)}, every frame and time{output}", **details)


def sizes(request: ProbeRequest) -> ProbeOutcome:
    """Decode odd sizes; have decord scale; resize and crop as upstream's datasets do."""
    import decord as library

    for width, height, pixels in ODD_SIZES:
        path = request.workdir / f"{width}x{height}.mp4"
        _clips.encode(path, width, height, "libx264", pixels, "-g", "12", "-bf", "2")
        problem = _decode(library, path, width, height)
        if problem:
            return failed(f"at {width}x{height} {pixels}, {_version()}: {problem}", _NO_DECORD, size=[width, height])
    problem = _scaled(library, path) or _resized(library, path)
    if problem:
        return failed(f"{_version()}: {problem}", "mamba install 'torchvision<0.26' 'pytorch<2.11'")
    return passed(f"{len(ODD_SIZES)} odd sizes exact; decord's scaling and torchvision's resize and crop work")


def write(request: ProbeRequest) -> ProbeOutcome:
    """Write an mp4 as upstream's sampling does, read it back with imageio and decord, and compare."""
    import decord as library
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
        return failed(f"imageio can't write an mp4: {type(error).__name__}: {error}", _no_writer())
    read = [np.asarray(frame) for frame in imageio.get_reader(str(path), format="FFMPEG")]
    again = list(library.VideoReader(str(path)).get_batch(list(range(len(read)))).asnumpy())
    worst = 0.0
    for reader, found in (("imageio", read), ("decord", again)):
        if len(found) != FRAMES:
            return failed(f"{FRAMES} frames written, {len(found)} read back by {reader}", _no_writer())
        differences = [float(np.abs(a.astype(int) - b.astype(int)).mean()) for a, b in zip(frames, found, strict=True)]
        wrong = [index for index, frame in enumerate(found) if frame_index(frame) != index]
        worst = max(worst, *differences)
        if wrong or worst > 8.0:  # of 255; x264's default quality leaves about 1 on these frames
            return failed(
                f"frames differ when read back by {reader}: {len(wrong)} out of place, mean difference"
                f" {worst:.1f} of 255", _no_writer(),
            )  # fmt: skip
    return passed(
        f"mp4 of {FRAMES} frames written, read back by imageio and decord (mean difference {worst:.1f} of 255)",
        ffmpeg=program, ffmpeg_version=imageio_ffmpeg.get_ffmpeg_version(), imageio=imageio.__version__,
    )  # fmt: skip


def broken(request: ProbeRequest) -> ProbeOutcome:
    """Broken files end in an error: no hang, no crash, no silent success. Each in a process of its own."""
    folder = request.workdir
    write_clip(folder / "whole.mp4", 320, 240)
    write_clip(folder / "index-first.mp4", 320, 240, "-movflags", "+faststart")
    whole, first = (folder / "whole.mp4").read_bytes(), (folder / "index-first.mp4").read_bytes()
    half, quarter = len(first) // 2, len(first) // 4
    cases = {
        "an empty file": b"",
        "random bytes": os.urandom(50_000),
        "text": b"<html>404 Not Found</html>\n" * 40,  # a failed download
        "a truncated mp4": whole[: len(whole) // 2],  # its index of frames, at the end, is lost
        "a truncated mp4 with its index first": first[:half],
        "an mp4 with a hole": first[:half] + bytes(quarter) + first[half + quarter :],
        "a missing file": None,
    }
    seconds = float(request.options.get("video.seconds", _SECONDS))
    paths = []
    for index, content in enumerate(cases.values()):
        paths.append(folder / f"broken-{index}.mp4")
        if content is not None:
            paths[-1].write_bytes(content)
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(cases, pool.map(lambda path: _read_broken(path, seconds), paths), strict=True))
    concealed = ("an mp4 with a hole", "success")  # FFmpeg may paint over damage: then it isn't an error
    problems = {
        name: f"{ending}: {output}" for name, (ending, output) in answers.items()
        if ending != "error" and (name, ending) != concealed
    }  # fmt: skip
    if problems:
        text = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        return failed(f"{_version()} on broken clips: {text}", _NO_DECORD, problems=problems)
    errors = {name: output for name, (_, output) in answers.items()}
    return passed(f"{len(cases)} kinds of broken clips end in an error, none hangs or crashes", errors=errors)


def _decode(library: Any, path: Path, width: int, height: int, by_ffmpeg: bool = True) -> str | None:
    try:
        return _clips.problem_of(library, path, width, height, by_ffmpeg)
    except Exception as error:  # decord has its own exceptions, none of them documented
        return f"{type(error).__name__}: {last_error(str(error))}"


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


def _shifts(library: Any, folder: Path, name: str) -> bool:
    """Return whether any seek into such a clip gives another frame than the one asked for."""
    codec, options = LIMITS[name]
    path = folder / f"{codec}-variant.mp4"
    _clips.encode(path, 320, 240, CODECS[codec][0], "yuv420p", "-g", "12", *options)
    for index in range(FRAMES):
        frame = library.VideoReader(str(path)).get_batch([index]).asnumpy()[0]
        if frame_index(frame) != index:
            return True
    return False


def _scaled(library: Any, path: Path) -> str | None:
    batch = library.VideoReader(str(path), width=240, height=136).get_batch([5, 30]).asnumpy()
    if batch.shape != (2, 136, 240, 3):
        return f"scaling to 240x136 gives the shape {batch.shape}"
    found = [frame_index(frame) for frame in batch]
    return None if found == [5, 30] else f"scaling to 240x136 gives the frames {found}, expected [5, 30]"


def _resized(library: Any, path: Path) -> str | None:
    """Resize to fill a rectangle and crop its centre: bicubic, on bytes, as upstream's data_video.py."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import crop, resize

    frames = torch.from_numpy(library.VideoReader(str(path)).get_batch([0, 21, 39]).asnumpy()).permute(0, 3, 1, 2)
    height, width = frames.shape[2:]
    target = [256, 448]
    inner = [target[0], int(width * target[0] / height)]  # wider than the target: the height decides
    filled = resize(frames, size=inner, interpolation=InterpolationMode.BICUBIC)
    left = (filled.shape[3] - target[1]) // 2
    cut = crop(filled, top=0, left=left, height=target[0], width=target[1])
    if tuple(cut.shape) != (3, 3, *target) or cut.dtype != torch.uint8:
        return f"resize and crop give {tuple(cut.shape)} of {cut.dtype}, expected (3, 3, 256, 448) of torch.uint8"
    exact = torch.nn.functional.interpolate(frames.float(), size=inner, mode="bicubic", antialias=True).clamp(0, 255)
    difference = float((filled.float() - exact).abs().mean())
    if difference > 1.0:  # of 255: rounding
        return f"torchvision's resize differs from torch's by {difference:.1f} of 255 on average"
    found = [frame_index(frame.permute(1, 2, 0).numpy()) for frame in filled]
    return None if found == [0, 21, 39] else f"after resizing the frames are {found}, expected [0, 21, 39]"


def _read_broken(path: Path, seconds: float) -> tuple[str, str]:
    """Read a broken clip in a process of its own; return how that ended and what it printed."""
    code = (
        "import sys, decord\n"
        "reader = decord.VideoReader(sys.argv[1])\n"
        "print('frames', reader.get_batch(list(range(len(reader)))).shape)\n"
    )
    done = run_joined([sys.executable, "-c", code, str(path)], seconds)
    if done.returncode == 124:
        return f"hangs (over {seconds:.0f} s)", "no answer"
    if done.returncode < 0:
        return f"crashes (signal {-done.returncode})", last_error(done.stdout)
    return ("error" if done.returncode else "success"), last_error(done.stdout)


def _version() -> str:
    return next((f"{name} {installed()[name]}" for name in DECORDS if name in installed()), "decord")
