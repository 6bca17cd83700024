"""The time stamp of what is made here, and ages as users write them. Python's standard library only."""

from __future__ import annotations

import os
import re

from cogvideo_sat_env.base.errors import InputError

EPOCH = 1577836800  # 2020-01-01: what is made here doesn't depend on the day
_AGE_UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}  # seconds


def timestamp(default: int = EPOCH) -> int:
    """Return the time that what is made here carries, in seconds since 1970: SOURCE_DATE_EPOCH, else `default`.

    Raises InputError when the variable isn't a number.
    """
    named = os.environ.get("SOURCE_DATE_EPOCH")
    if not named:
        return default
    if not named.isdecimal():
        remedy = "export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct), or unset it"
        raise InputError(f"SOURCE_DATE_EPOCH={named!r}: expected seconds since 1970", remedy)
    return int(named)


def parse_age(text: str, option: str) -> float:
    """Return the seconds that 14d, 36h or 2w means. Raises InputError that names `option`."""
    found = re.fullmatch(r"(\d{1,6})([hdw])", text.strip(), re.ASCII)
    if not found or int(found[1]) > 100_000:
        raise InputError(f"{option} {text!r}: expected a number with d, h or w", f"e.g. {option} 14d")
    return int(found[1]) * _AGE_UNITS[found[2]]
