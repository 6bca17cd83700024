"""What the doctor's parts hand to each other: a check's description and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, WARNING, NOT_RUN = "passed", "failed", "warning", "not_run"
STATUSES = (PASSED, FAILED, WARNING, NOT_RUN)
QUICK, FULL, GPU = "quick", "full", "gpu"
LEVELS = (QUICK, FULL, GPU)


@dataclass(frozen=True)
class CheckSpec:
    """One check, described without loading its code.

    id        stable name, "<subject>.<topic>"
    level     quick: part of every level; full: only of full; gpu: of full and gpu, run only where there is a GPU
    catches   the failure that it exists for, one line
    function  name of the probe function in checks/<subject>.py; by default the topic, with _ for -
    limit     seconds before it counts as hanging
    training  true: meaningless in an environment that only prepares data
    after     ids that must have ended first, when they run at all (their work is shared)
    alone     true: it starts several processes itself, so that nothing else runs beside it
    joins     id of a check in whose process it may run, straight after it (both pay for the same imports)
    light     true: imports neither torch nor anything that asks the GPU driver
    made      true: of an environment that was made from a lock; meaningless in any other Python
    loader_errors  true: a complaint of the dynamic loader in what it prints is a failure, even if all else went well
    """

    id: str
    level: str
    catches: str
    function: str = ""
    limit: float = 60.0
    training: bool = False
    after: tuple[str, ...] = ()
    alone: bool = False
    joins: str | None = None
    loader_errors: bool = False
    light: bool = False
    made: bool = False

    def __post_init__(self) -> None:
        if not self.function:
            object.__setattr__(self, "function", self.id.partition(".")[2].replace("-", "_"))

    @property
    def subject(self) -> str:
        """The part of the id before the dot; also the name of the file in checks/."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    seconds   wall-clock time, start of its process included
    finding   one line: what was seen
    remedy    what to type or do, None when nothing needs doing
    details   JSON values for machines: versions, counts, the last lines of output of a failed check
    """

    id: str
    level: str
    status: str
    seconds: float
    finding: str
    remedy: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values (see doctor_report.py for the schema)."""
        return {"id": self.id, "subject": self.subject} | vars(self) | {"seconds": round(self.seconds, 3)}
