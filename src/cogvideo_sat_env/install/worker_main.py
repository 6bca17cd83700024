"""Works on the files of packages in a process of its own: run by workers.py, never imported by it.

The tasks named as arguments are loaded at once. Messages as JSON lines on standard input, one answer a line on standard
output, before which a task may send events. It ends at once when its input closes, so it never outlives the process
that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # isolated mode leaves it out

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.install.package_files import remember
from cogvideo_sat_env.install.tasks import load


def _listen(messages: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        messages.put(line)
    os._exit(0)  # rattler 0.28 can crash while the interpreter shuts down


def main() -> None:
    """Do what is asked for until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    remember()
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    for name in sys.argv[1:]:
        load(name)
    while True:
        message = json.loads(messages.get())
        try:
            function = load(message["task"])
            answer = {"results": [function(**job) for job in message["jobs"]]}
        except VerificationError as error:
            answer = {"refused": [error.message, error.remedy]}
        except Exception as error:  # the parent tells it
            answer = {"failed": f"{type(error).__name__}: {error}"}
            if isinstance(error, OSError) and error.errno:
                answer = {"system": [error.errno, error.strerror, error.filename, None, error.filename2]}
        sys.stdout.write(json.dumps(answer, default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
