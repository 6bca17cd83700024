"""Extracts packages in a process of its own: run by extractor.py, never imported by it.

Jobs as JSON lines on standard input, one answer a line on standard output; it ends when its input closes. A process of
its own because rattler's extraction holds the interpreter lock, and downloads go on meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # isolated mode leaves it out

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.install.unpack import PackageName, unpack


def main() -> None:
    """Extract what is asked for until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for line in sys.stdin:
        job = json.loads(line)
        try:
            unpack(Path(job["archive"]), PackageName(**job["package"]), Path(job["packages"]), job["compare"])
            answer = {"event": "unpacked"}
        except VerificationError as error:
            answer = {"event": "refused", "text": error.message, "remedy": error.remedy}
        except Exception as error:  # whatever rattler raises: the parent judges the text
            answer = {"event": "failed", "text": f"{type(error).__name__}: {error}"}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            break
    os._exit(0)  # rattler 0.28 can crash while the interpreter shuts down


if __name__ == "__main__":
    main()
