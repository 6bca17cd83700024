"""Error strings that users search for (data/symptoms.yml): what each means, which check names it, what to type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

WHAT = "the list of symptoms"
_TEXTS = ("error", "means", "remedy", "seen")


@dataclass(frozen=True)
class Symptom:
    """One error string; `test` provokes it, or `untested` says why nothing can."""

    error: str
    means: str
    checks: tuple[str, ...]
    remedy: str
    seen: str
    test: str | None = None
    untested: str | None = None


def read_symptoms(path: Path = DATA / "symptoms.yml") -> tuple[Symptom, ...]:
    """Read the list. Raises InputError, with file and line, for an entry that isn't whole."""
    data, lines = yamlfile.load_under(path, WHAT, "symptoms")
    return tuple(_symptom(f"{path}:{lines.of('symptoms', index)}", item) for index, item in enumerate(data["symptoms"]))


def explain(symptoms: Iterable[Symptom], check: str, output: str) -> Symptom | None:
    """Return the symptom of `check` whose words are in `output` (white space aside), the longest first."""
    text = " ".join(output.split())
    fitting = [item for item in symptoms if check in item.checks and " ".join(item.error.split()) in text]
    return max(fitting, key=lambda item: len(item.error), default=None)


def _symptom(where: str, item: object) -> Symptom:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected a symptom with the keys {', '.join(_TEXTS)}, checks", None)
    for name in _TEXTS:
        if not isinstance(item.get(name), str) or not item[name].strip():
            lacking = f"{where}: symptom {item.get('error', '?')!r} lacks '{name}' (a text)"
            raise InputError(lacking, "correct that entry")
    checks = item.get("checks")
    if not isinstance(checks, list) or not checks:
        raise InputError(f"{where}: symptom {item['error']!r} lacks 'checks' (ids of the doctor)", "correct that entry")
    if bool(item.get("test")) == bool(item.get("untested")):
        raise InputError(f"{where}: symptom {item['error']!r} needs either 'test' or 'untested'", "correct that entry")
    return Symptom(
        item["error"], " ".join(item["means"].split()), tuple(checks), item["remedy"], item["seen"],
        item.get("test"), item.get("untested"),
    )  # fmt: skip
