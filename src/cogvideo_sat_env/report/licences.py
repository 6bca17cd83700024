"""Licences, and those that matter to who hands an environment on: what a package's metadata says, no legal advice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from license_expression import (
    ExpressionError,
    LicenseSymbol,
    LicenseWithExceptionSymbol,
    Licensing,
    get_spdx_licensing,
)

from cogvideo_sat_env.report.inventory import Package

NVIDIA, GPL, EXCEPTION, LGPL, OWN, UNKNOWN = "nvidia", "gpl", "gpl-exception", "lgpl", "own-terms", "unknown"
MEANING = {  # flag: heading, what it means for who hands the environment on; the heaviest first
    NVIDIA: ("NVIDIA's terms", "redistribution (mirror, image, bundle for others) only as its EULA allows"),
    GPL: ("GPL", "who gives others a copy gives them the sources, too"),
    LGPL: ("LGPL", "may be used by anything, must stay replaceable; sources for who gets a copy"),
    EXCEPTION: ("GPL with an exception", "what is compiled or linked with it isn't covered"),
    OWN: ("Terms of its own", "not on SPDX's list: read them"),
    UNKNOWN: ("Unknown", "the metadata names no licence: look it up before you hand it on"),
}
_ORDER = list(MEANING)
_PLAIN = re.compile(r"\b(MIT|BSD|Apache|APACHE|ISC|PSF|Python Software Foundation|Mozilla|MPL|zlib|HPND|Unlicense)\b")
_SELF = re.compile(r"nvidia|cudnn", re.IGNORECASE)


@cache
def flags(licence: str | None) -> tuple[str, ...]:
    """Return the flags of a licence as metadata has it (an SPDX expression or free words), the heaviest first.

    Of alternatives (OR) the lightest counts: the choice is the user's.
    """
    if not licence:
        return (UNKNOWN,)
    if _SELF.search(licence):
        return (NVIDIA,)
    try:
        found = _of(_licensing().parse(licence))
    except (ExpressionError, AttributeError):  # AttributeError: license-expression 30 on a comma
        found = _of_words(licence)
    return tuple(sorted(found, key=_ORDER.index))


@cache
def _licensing() -> Licensing:
    return get_spdx_licensing()


def _of(node: object) -> frozenset[str]:
    if isinstance(node, LicenseWithExceptionSymbol):
        plain = _of(node.license_symbol)
        return frozenset({EXCEPTION}) if plain & {GPL, LGPL} else plain
    if isinstance(node, LicenseSymbol):
        return _of_words(node.key) if node.key not in _licensing().known_symbols else _of_name(node.key)
    parts = [_of(part) for part in node.args]
    if type(node).__name__ == "OR":
        return min(parts, key=lambda part: sorted((len(_ORDER) - _ORDER.index(flag) for flag in part), reverse=True))
    return frozenset().union(*parts)


def _of_name(name: str) -> frozenset[str]:
    if name.startswith("LGPL"):
        return frozenset({LGPL})
    return frozenset({GPL}) if name.startswith(("GPL", "AGPL")) else frozenset()


def _of_words(words: str) -> frozenset[str]:
    found = {LGPL} if re.search(r"LGPL|Lesser", words) else set()
    if re.search(r"\bA?GPL|(?<!Lesser )General Public", words):
        found.add(GPL)
    return frozenset(found or (() if _PLAIN.search(words) else {OWN}))


def flagged(packages: Iterable[Package]) -> dict[str, list[Package]]:
    """Return the packages of each flag, heaviest flag first; a package stands under its heaviest alone."""
    found: dict[str, list[Package]] = {flag: [] for flag in MEANING}
    for package in packages:
        for flag in flags(package.licence)[:1]:
            found[flag].append(package)
    return {flag: several for flag, several in found.items() if several}
