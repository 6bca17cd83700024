"""Ends what a server draws out: socket timeouts count from byte to byte, so that a byte now and then defeats them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

_POLL = 0.1  # seconds
_open: set[Deadline] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


class Deadline:
    """A block that must be done in `seconds`; when it isn't, `end` is called from another thread, again and again."""

    def __init__(self, end: Callable[[], object], seconds: float) -> None:
        self._end, self.expired = end, False
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Count from now on."""
        self._at = time.monotonic() + seconds

    def __enter__(self) -> Deadline:
        global _thread
        with _lock:
            _open.add(self)
            if _thread is None:
                _thread = threading.Thread(target=_watch, name="deadlines", daemon=True)
                _thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with _lock:
            _open.discard(self)

    def check(self) -> None:
        """End the block if its time is over."""
        if time.monotonic() < self._at:
            return
        self.expired = True
        try:
            self._end()
        except (OSError, ValueError, RuntimeError, AttributeError):  # not connected yet, or it has just ended by itself
            return


def _watch() -> None:
    global _thread
    while True:
        with _lock:
            if not _open:
                _thread = None
                return
            watched = list(_open)
        for deadline in watched:
            deadline.check()
        time.sleep(_POLL)
