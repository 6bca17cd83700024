"""Version bounds between the two worlds: PEP 440 specifiers and conda version clauses."""

from __future__ import annotations

import re
from collections.abc import Callable

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

_CONDA_CLAUSE = re.compile(r"^(?P<op>~=|==|!=|<=|>=|<|>|=|)\s*(?P<version>[^<>=!~,|\s]+)$")


def specifier_to_conda(specifier: str) -> str:
    """Return the conda version clauses that mean the PEP 440 `specifier`; "" for any version.

    Raises ValueError for a specifier that no conda clause can express.
    """
    try:
        parts = sorted(SpecifierSet(specifier), key=str)
    except InvalidSpecifier as error:
        raise ValueError(str(error)) from error
    clauses: list[str] = []
    for part in parts:
        clauses.extend(clause for clause in _clauses(part) if clause not in clauses)
    return ",".join(clauses)


def conda_to_specifier(version: str) -> str:
    """Return the PEP 440 specifier that means the conda version clauses `version`; "" for any version.

    Understands what an environment file may hold: comma-joined clauses, `=1.2`, `1.2.*`, a bare version (exactly it).
    Raises ValueError for anything else.
    """
    parts = []
    for clause in version.split(","):
        clause = clause.strip()
        if clause in ("", "*"):
            continue
        match = _CONDA_CLAUSE.match(clause)
        if not match:
            raise ValueError(f"{clause!r} has no PEP 440 form")
        operator, number = match["op"], match["version"]
        fuzzy = number.endswith("*")
        number = number.rstrip("*").rstrip(".")
        if fuzzy:
            operator = {"": "==", "=": "==", "~=": ">="}.get(operator, operator)
            number += ".*" if operator in ("==", "!=") else ""
        elif operator == "=":
            operator, number = "==", number + ".*"
        parts.append(f"{operator or '=='}{number}")
    try:
        return ",".join(sorted(str(part) for part in SpecifierSet(",".join(parts))))
    except InvalidSpecifier as error:
        raise ValueError(str(error)) from error


def _clauses(part: Specifier) -> list[str]:
    operator, text = part.operator, part.version
    if operator == "===":
        return [f"=={text}"]
    if text.endswith(".*"):
        prefix = str(Version(text[:-2]))
        return [f"{prefix}.*" if operator == "==" else f"!={prefix}.*"]
    try:
        version = Version(text)
    except InvalidVersion as error:
        raise ValueError(str(error)) from error
    special: dict[str, Callable[[Version], list[str]]] = {"~=": _compatible, "<": _below, ">": _above}
    return special[operator](version) if operator in special else [f"{operator}{version}"]


def _epoch(version: Version) -> str:
    return f"{version.epoch}!" if version.epoch else ""


def _compatible(version: Version) -> list[str]:
    prefix = _epoch(version) + ".".join(str(number) for number in version.release[:-1])
    return [f">={version}", f"{prefix}.*"]


def _below(version: Version) -> list[str]:
    # PEP 440: `<2.0` leaves out 2.0's own pre-releases; in conda's order nothing of 2.0 comes before 2dev0
    if version.is_prerelease or version.is_postrelease or not any(version.release):
        return [f"<{version}"]
    release = list(version.release)
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    return [f"<{_epoch(version)}{'.'.join(map(str, release))}dev0"]


def _above(version: Version) -> list[str]:
    # PEP 440: `>1.2` leaves out 1.2.post1, conda doesn't
    if version.is_postrelease or version.is_prerelease:
        return [f">{version}"]
    return [f">{version}", f"!={version}.post*"]
