"""What an examination of a checkout finds: one fact, where it stands, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FAILED, WARNING = "failed", "warning"


@dataclass(frozen=True)
class Edit:
    """A change of one YAML file that corrects a finding.

    `path` is the value's place. With `moved` the key goes below that mapping; else its value becomes `value`.
    """

    file: str
    path: tuple[str | int, ...]
    value: Any = None
    moved: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that fails (or may). `where` is FILE:LINE or a path; `error` the words that upstream would print."""

    id: str
    status: str
    where: str
    finding: str
    remedy: str
    error: str = ""
    edit: Edit | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the edit."""
        return {name: value for name, value in asdict(self).items() if name != "edit"}

    def __str__(self) -> str:
        return f"{self.where}: {self.finding}"
