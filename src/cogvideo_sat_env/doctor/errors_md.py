"""docs/errors.md, made from the symptoms and the breakage ledger: python -m cogvideo_sat_env.doctor.errors_md"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from cogvideo_sat_env.base.command_name import CHECKOUT
from cogvideo_sat_env.doctor.symptoms import Symptom, read_symptoms
from cogvideo_sat_env.spec.breakage import Ledger, read_ledger

_COMMANDS = ("mamba ", "conda ", "pip ", "unset ", "export ", "./scripts/satenv ", "ffmpeg ", "CONDA_OVERRIDE")
_HEAD = """\
# Errors, and what to do

<!-- Made by `python -m cogvideo_sat_env.doctor.errors_md` from data/symptoms.yml and data/breakage.yml: don't edit. -->

Search this page for a part of the message. The doctor looks for the same words: `./scripts/satenv doctor` (in an
environment that has the metapackage: `cogvideo-sat-env doctor`) names the failure, and says what to type. One check
alone: `./scripts/satenv doctor --only ID`.
"""


def to_markdown(symptoms: Iterable[Symptom], ledger: Ledger) -> str:
    """Return docs/errors.md."""
    rows = [(item.error, item.means, item.checks, item.remedy) for item in symptoms]
    rows += [(entry.error, entry.breaks, entry.proof.checks, entry.remedy) for entry in ledger.all]
    parts = [_HEAD]
    for error, group in groupby(sorted(rows, key=lambda row: (row[0].lower(), row[0])), key=lambda row: row[0]):
        same = list(group)  # one message may have two reasons: a bound, and the patch that makes it unnecessary
        means = "\n\n".join(dict.fromkeys(row[1] for row in same))
        checks = ", ".join(f"`{check}`" for check in dict.fromkeys(check for row in same for check in row[2]))
        doctor = f"- Doctor: {checks}\n" if checks else ""
        remedy = "; or: ".join(dict.fromkeys(_code(row[3].replace("{satenv}", CHECKOUT)) for row in same))
        parts.append(f"### `{error}`\n\n{means}\n\n{doctor}- What to do: {remedy}\n")
    return "\n".join(parts)


def _code(remedy: str) -> str:
    """Mark a remedy that is a command as one; a sentence stays a sentence."""
    plain = remedy.startswith(_COMMANDS) and "; " not in remedy and " (" not in remedy and " says " not in remedy
    return f"`{remedy}`" if plain else remedy


if __name__ == "__main__":
    print(to_markdown(read_symptoms(), read_ledger()), end="")
