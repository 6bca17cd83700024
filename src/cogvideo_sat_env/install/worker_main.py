"""Works on the files of packages in a process of its own: run by workers.py, never imported by it.

Messages as JSON lines on standard input, one answer a line on standard output. It ends at once when its input closes,
so it never outlives the process that started it.
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

from cogvideo_sat_env.install.package_files import remember
from cogvideo_sat_env.install.tasks import TASKS


def _listen(messages: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        messages.put(line)
    os._exit(0)


def main() -> None:
    """Do what is asked for until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    remember()
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    while True:
        message = json.loads(messages.get())
        try:
            answer = {"results": [TASKS[message["task"]](**job) for job in message["jobs"]]}
        except OSError as error:
            answer = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        except Exception as error:  # the parent tells it
            answer = {"failed": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
