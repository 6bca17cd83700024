"""A limit on the bytes per second of all transfers together."""

from __future__ import annotations

import re
import threading
import time

from cogvideo_sat_env.base.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str, option: str) -> int:
    """Read "500k", "10M", "4G" (powers of 1000, as everywhere in this program). Raises InputError naming `option`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?(?:/s)?", text.strip().lower())
    amount = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if amount <= 0:
        raise InputError(f"{option} {text!r}: expected an amount of bytes", f"e.g. {option} 500k, 20M or 4G")
    return amount


class Limiter:
    """Makes its callers wait so that together they take no more than `rate` bytes per second."""

    def __init__(self, rate: float | None) -> None:
        self._rate, self._lock, self._free_at = rate, threading.Lock(), time.monotonic()

    @property
    def piece(self) -> int:
        """How many bytes to ask for at once: little under a limit, so that it holds smoothly."""
        return 256 * 1024 if self._rate is None else int(max(1024, min(64 * 1024, self._rate / 10)))

    def take(self, amount: int, stop: threading.Event) -> None:
        """Count `amount` bytes and wait for as long as they are worth, or until `stop` is set."""
        if self._rate is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + amount / self._rate
            wait = self._free_at - time.monotonic()
        if wait > 0:
            stop.wait(wait)
