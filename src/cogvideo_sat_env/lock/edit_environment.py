"""Moving pieces between the conda and the pip part of environment.yml, which people write: line by line."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.spec.environment import Environment, PipSpec, read_environment
from cogvideo_sat_env.spec.pieces import Piece
from cogvideo_sat_env.spec.placement import Placement, marked

HEADING = "# --- pieces that the locked channels have; a lock moves them back to pip where they vanish"
_PIP = re.compile(r"^(?P<indent>\s*)- pip:\s*(#.*)?$")


def moved(text: str, environment: Environment, pieces: Sequence[Piece], placed: Mapping[str, Placement]) -> str:
    """Return the text of environment.yml with each piece where `placed` has it, and the reasons in its comments.

    Every other line stays; a comment goes with its piece. Raises InputError where the file is laid out in a way that
    can't be edited by lines.
    """
    edit = _Edit(text.splitlines(), environment)
    for piece in reversed(pieces):
        edit.take(piece, placed[piece.name])
    result = "\n".join(edit.result()) + "\n"
    _require_same(result, environment, pieces, placed)
    return result


class _Edit:
    """The lines of the file, and what becomes of them."""

    def __init__(self, lines: list[str], environment: Environment) -> None:
        self.lines, self.environment = lines, environment
        items = [spec.line - 1 for spec in environment.conda] + [spec.line - 1 for spec in environment.pip]
        self.end = max(items) + 1
        self.outer = self._indent(min(items))
        self.inner = self._indent(environment.pip[0].line - 1) if environment.pip else f"{self.outer}  "
        self.removed: set[int] = set()
        self.above: dict[int, list[str]] = defaultdict(list)  # what comes before a line
        self.to_conda: list[str] = []
        self.following = self.end  # line of the piece in the pip part that comes after the one that is taken

    def take(self, piece: Piece, placement: Placement) -> None:
        """Note what is to be done for one piece; the last one is taken first."""
        stands = self.environment.pip_spec(piece.name) or self.environment.conda_spec(piece.conda.name)  # type: ignore[union-attr]
        assert stands is not None
        index, is_pip = stands.line - 1, isinstance(stands, PipSpec)
        target = piece.pip if placement.origin == "pip" else piece.conda
        if target is None:
            raise InputError(
                f"{self.environment.path}:{stands.line}: the bound of {piece.name} can't be expressed for "
                f"{placement.origin}",
                "write another bound",
            )
        comment = marked(stands.comment, placement if placement.origin == "pip" else None)
        if is_pip == (placement.origin == "pip"):
            if comment != stands.comment:
                self.lines[index] = _commented(self.lines[index], comment)
            if is_pip:
                self.following = index
            return
        first = self._with_comments(index)
        notes = [line.strip() for line in self.lines[first:index]]
        self.removed |= set(range(first, index + 1))
        block = [*notes, f"- {target}" + (f"  # {comment}" if comment else "")]
        if placement.origin == "conda":
            self.to_conda[:0] = [f"{self.outer}{line}" for line in block]
        else:
            self.above[self.following][:0] = [f"{self.inner}{line}" for line in block]

    def result(self) -> list[str]:
        """Return the lines of the edited file."""
        at = next((i for i, line in enumerate(self.lines) if _PIP.match(line)), None)
        head = self.end if at is None else self._with_comments(at)
        if at is None and self.above:
            below = self.end  # the comment that stood above the list when it had something
            while below < len(self.lines) and re.match(rf"^{self.outer}#", self.lines[below]):
                below += 1
            self.above[below] = [f"{self.outer}- pip:", *self.above.pop(self.end, [])]
        elif at is not None and not self.above and self.removed >= {spec.line - 1 for spec in self.environment.pip}:
            self.removed.add(at)  # an empty list is no environment file
        if self.to_conda:
            has_heading = any(self._is_heading(i) for i in range(len(self.lines)))
            self.above[head][:0] = [*([] if has_heading else [f"{self.outer}{HEADING}"]), *self.to_conda]
        else:
            self._drop_heading()
        found: list[str] = []
        for index, line in enumerate([*self.lines, ""]):
            found += self.above[index]
            if index < len(self.lines) and index not in self.removed:
                found.append(line)
        return found

    def _drop_heading(self) -> None:
        """Take the heading out when nothing is left below it."""
        items = {spec.line - 1 for spec in self.environment.conda}
        for index in range(len(self.lines)):
            below = next((i for i in range(index + 1, len(self.lines)) if i not in self.removed), None)
            if self._is_heading(index) and (below is None or below not in items):
                self.removed.add(index)

    def _with_comments(self, index: int) -> int:
        """Return the first line of the comments above an item, as deep as it; its own where there are none."""
        indent = self._indent(index)
        while index and re.match(rf"^{indent}#", self.lines[index - 1]) and not self._is_heading(index - 1):
            index -= 1
        return index

    def _is_heading(self, index: int) -> bool:
        return self.lines[index].strip() == HEADING

    def _indent(self, index: int) -> str:
        line = self.lines[index]
        return line[: len(line) - len(line.lstrip())]


def _commented(line: str, comment: str) -> str:
    body = line.partition("  # ")[0].rstrip()
    return f"{body}  # {comment}" if comment else body


def _require_same(
    text: str, environment: Environment, pieces: Sequence[Piece], placed: Mapping[str, Placement]
) -> None:
    """Raise InputError unless the edited file asks for what it asked for, each piece from where it is placed."""
    names = {canonicalize_name(piece.name) for piece in pieces}
    conda_names = {piece.conda.name for piece in pieces if piece.conda}
    wanted_conda = {str(s) for s in environment.conda if s.name not in conda_names}
    wanted_pip = {str(s) for s in environment.pip if canonicalize_name(s.name) not in names}
    wanted_conda |= {str(piece.conda) for piece in pieces if placed[piece.name].origin == "conda"}
    wanted_pip |= {str(piece.pip) for piece in pieces if placed[piece.name].origin == "pip"}
    with scratch_folder("satenv-edit-") as folder:
        path = folder / "environment.yml"
        path.write_text(text, encoding="utf-8")
        try:
            found = read_environment(path)
        except InputError:
            found = None
    if found is None or {str(s) for s in found.conda} != wanted_conda or {str(s) for s in found.pip} != wanted_pip:
        raise InputError(
            f"{environment.path}: pieces can't be moved in it: expected one dependency a line",
            "write the list of dependencies with one `- name bound` a line, and lock again",
        )
