"""Why a package is bounded, or a variable set: what the ledger and the requirements say of a name.

It answers inside the environment as well (`cogvideo-sat-env why`), where a solver's refusal names a bound and nothing
else.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env.base.command_name import spell_out
from cogvideo_sat_env.base.errors import InputError

if TYPE_CHECKING:
    from cogvideo_sat_env.spec.breakage import LedgerEntry
    from cogvideo_sat_env.spec.requirements import Requirement

WIDTH = 100


@dataclass(frozen=True)
class Answer:
    """What is known of one name: its floor and role, and each bound beyond with its reason."""

    name: str
    requirement: Requirement | None
    entries: tuple[LedgerEntry, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the answer for scripts."""
        needed = self.requirement
        return {
            "name": self.name,
            "role": needed.role if needed else None,
            "floor": needed.floor if needed else None,
            "bounds": [
                {
                    **{key: getattr(entry, key) for key in ("id", "package", "bound", "error", "evidence", "breaks")},
                    "proof": [*entry.proof.tests, *entry.proof.checks],
                    "remedy": spell_out(entry.remedy),
                }
                for entry in self.entries
            ],
        }

    def to_text(self) -> str:
        """Return the answer for people."""
        lines = []
        needed = self.requirement
        if needed:
            floor = f" >={needed.floor}, the lowest that was tested" if needed.floor else ""
            lines.append(f"{needed.conda or needed.name}{floor}: {needed.role}")
        for entry in self.entries:
            lines += [""] if lines else []
            lines.append(f"{entry.package} {entry.bound}  ({entry.id})")
            lines += _wrapped("without it", entry.breaks)
            lines += _wrapped("error", entry.error)
            for kind, words in entry.evidence.items():
                lines += _wrapped(kind, words)
            lines += _wrapped("proof", ", ".join([*entry.proof.tests, *entry.proof.checks]))
            lines += _wrapped("do", spell_out(entry.remedy))
        return "\n".join(lines) + "\n"


def _wrapped(label: str, words: str) -> list[str]:
    return textwrap.wrap(
        " ".join(words.split()), WIDTH, initial_indent=f"  {label + ':':<12}", subsequent_indent=" " * 14,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def explain(name: str) -> Answer:
    """Return what is known of a package (conda or PyPI name, any spelling), a variable, or an id of the ledger.

    Raises InputError for a name that neither the ledger nor the requirements have.
    """
    # they need PyYAML, which the command line around this does without
    from cogvideo_sat_env.spec.breakage import read_ledger
    from cogvideo_sat_env.spec.requirements import read_requirements

    wanted = spec_key(name)
    ledger, requirements = read_ledger(), read_requirements()
    needed = next((r for r in requirements if wanted in {_key(r.name), _key(r.conda or r.name), _key(r.module)}), None)
    names = {wanted} | ({_key(needed.name), _key(needed.conda or needed.name)} if needed else set())
    entries = tuple(
        entry
        for entry in ledger.all
        if names & {_key(entry.package), _key(entry.pypi_name or entry.package)} or wanted == _key(entry.id)
    )
    if needed is None and not entries:
        known = sorted({entry.package for entry in ledger.all})
        raise InputError(
            f"{name}: neither a requirement nor bounded here; any version will do",
            f"there are entries on: {', '.join(known)}",
        )
    return Answer(name, needed, entries)


def spec_key(text: str) -> str:
    """Return the name in what a user wrote, a name or a spec with bounds, as package indexes compare names."""
    return _key(re.split(r"[\s<>=!~\[(]", text.strip(), maxsplit=1)[0])


def _key(name: str) -> str:
    """Return a name as package indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cogvideo-sat-env why`."""
    parser.add_argument("name", metavar="PACKAGE", help="a package, e.g. webdataset, or a variable")
    parser.add_argument("--json", dest="as_json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    """Print the answer; returns the exit code. Raises InputError."""
    answer = explain(options.name)
    print(json.dumps(answer.to_json(), indent=2) if options.as_json else answer.to_text(), end="")
    return 0
