"""What differs between two inventories, for people, pull requests and scripts.

diff(a, b)       -> Difference     of two inventories
compare(a, b)    -> Comparison     of what two files hold, platform by platform
.to_text(), .to_markdown(), .to_json(), .equal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion
from packaging.version import Version as PipVersion

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.report.bounds import all_bounds, holds
from cogvideo_sat_env.report.columns import align
from cogvideo_sat_env.report.graph import make_graph
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.report.licences import MEANING, flags
from cogvideo_sat_env.report.size import total
from cogvideo_sat_env.spec.pypi_names import load_names

ADDED, REMOVED, UPGRADED, DOWNGRADED, REBUILT, MOVED = "added", "removed", "upgraded", "downgraded", "rebuilt", "moved"
KINDS = (ADDED, REMOVED, MOVED, UPGRADED, DOWNGRADED, REBUILT)
_FOLD = 25  # rows of a Markdown table that stand open


@dataclass(frozen=True)
class Crossing:
    """A version or build that crosses a floor or a bound of the ledger: `inside` says whether the new one is within."""

    package: str
    id: str
    bound: str
    inside: bool
    before: str
    after: str
    why: str


@dataclass(frozen=True)
class Change:
    """One package that differs. `before` is None for an added one, `after` for a removed one.

    `reason` is the nearest requirement that brings an added one, or brought a removed one.
    """

    kind: str
    before: Package | None
    after: Package | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The package's name, the new one where it has another."""
        return (self.after or self.before).name  # type: ignore[union-attr]

    @property
    def key(self) -> str:
        """The name by which packages are compared."""
        return (self.after or self.before).key  # type: ignore[union-attr]

    @property
    def size_delta(self) -> int | None:
        """Bytes that the archives grow by, None where a size isn't known."""
        sizes = [package.size if package else 0 for package in (self.before, self.after)]
        return None if None in sizes else sizes[1] - sizes[0]  # type: ignore[operator]

    @property
    def licence_changed(self) -> bool:
        """Whether both have a licence, and not the same."""
        both = self.before and self.after and self.before.licence and self.after.licence
        return bool(both) and self.before.licence != self.after.licence  # type: ignore[union-attr]

    @property
    def new_flags(self) -> tuple[str, ...]:
        """The licence flags that the package has now and hadn't."""
        old = flags(self.before.licence) if self.before else ()
        return tuple(flag for flag in (flags(self.after.licence) if self.after else ()) if flag not in old)

    def words(self) -> tuple[str, str]:
        """Return what to show before and after: versions, with builds and sources where only those differ."""
        before, after = self.before, self.after
        if not (before and after):
            return (_version(before) if before else "", _version(after) if after else "")
        if self.kind == MOVED:
            return f"{before.version} ({_source(before)})", f"{after.version} ({_source(after)})"
        if self.kind == REBUILT and before.build == after.build:
            other = [p.channel or p.file_name for p in (before, after)]
            if other[0] == other[1]:  # the same name, other bytes
                other = [f"SHA-256 {p.sha256[:12]}…" for p in (before, after)]
            return f"{before.version} {other[0]}", f"{after.version} {other[1]}"
        return _version(before, self.kind == REBUILT), _version(after, self.kind == REBUILT)

    def to_json(self) -> dict[str, Any]:
        """Return the change for scripts."""
        return {
            "name": self.name, "change": self.kind, "before": _facts(self.before), "after": _facts(self.after),
            "requirement": self.reason or None, "size_delta": self.size_delta,
            "licence_changed": self.licence_changed, "new_flags": list(self.new_flags),
        }  # fmt: skip


def _version(package: Package, build: bool = False) -> str:
    return f"{package.version} {package.build}".strip() if build else package.version


def _source(package: Package) -> str:
    return "pip" if package.kind == "pip" else package.channel.rpartition("/")[2] or "conda"


def _facts(package: Package | None) -> dict[str, Any] | None:
    names = ("name", "version", "build", "kind", "channel", "size", "sha256", "licence")
    return {name: getattr(package, name) for name in names} if package else None


@dataclass(frozen=True)
class Difference:
    """What differs between two inventories: every change, by kind and name, and the bounds that are crossed."""

    before: Inventory
    after: Inventory
    changes: tuple[Change, ...]
    hits: tuple[Crossing, ...]
    note: str = ""  # what was left out of the comparison

    @property
    def equal(self) -> bool:
        """Whether no package differs."""
        return not self.changes

    @property
    def label(self) -> str:
        """Platform or variant, both where they differ."""
        labels = dict.fromkeys((self.before.label, self.after.label))
        if self.before.platform == self.after.platform and None in (self.before.variant, self.after.variant):
            return self.before.variant or self.after.variant or self.before.platform
        return " → ".join(labels)

    def of(self, kind: str) -> list[Change]:
        """Return the changes of one kind."""
        return [change for change in self.changes if change.kind == kind]

    def counts(self) -> str:
        """Return how many of each kind, in words."""
        return ", ".join(f"{len(self.of(kind))} {kind}" for kind in KINDS if self.of(kind)) or "no difference"

    def sizes(self) -> str:
        """Return both sizes of the archives and what they differ by, saying how many aren't known."""
        old, new = total(self.before.packages), total(self.after.packages)
        about = "" if not (old.unknown or new.unknown) else " at least"
        return f"{old} → {new} to download ({signed(new.size - old.size)}{about})"

    def to_json(self) -> dict[str, Any]:
        """Return the difference for scripts."""
        return {
            "platform": self.after.platform, "variants": [self.before.variant, self.after.variant],
            "size": {"before": total(self.before.packages).to_json(), "after": total(self.after.packages).to_json()},
            "changes": [change.to_json() for change in self.changes],
            "ledger": [vars(hit) for hit in self.hits], "note": self.note,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return the difference for people: a line for each package."""
        lines = [f"{self.label}: {self.counts()}; {self.sizes()}"]
        lines += [f"  ({self.note})"] if self.note else []
        lines += [f"  ! {_hit(hit)}" for hit in self.hits]
        rows = [
            (
                f"  {change.kind}",
                change.name,
                *change.words(),
                signed(change.size_delta),
                f"for {change.reason}" if change.reason else "",
                _licence_words(change),
            )
            for change in self.changes
        ]
        return "\n".join(lines + (align(rows, right=(4,)) if rows else [])) + "\n"

    def to_markdown(self) -> str:
        """Return the difference for a pull request: what needs a look first, then a table, folded when it is long."""
        lines = [
            f"### {self.label}",
            "",
            f"{self.counts()}; {self.sizes()}." + (f" ({self.note}.)" if self.note else ""),
        ]
        if self.hits:
            lines += ["", "**Bounds that are crossed**", "", *[f"- {_code(_hit(hit))}" for hit in self.hits]]
        licences = [change for change in self.changes if change.licence_changed or change.new_flags]
        if licences:
            rows = [f"- `{change.name}`: {_code(_licence_words(change))}" for change in licences]
            lines += ["", "**Licences to look at**", "", *rows]
        head = ["| package | change | before | after | size | for |", "|---|---|---|---|---:|---|"]
        rows = [
            f"| `{change.name}` | {change.kind} | {' | '.join(_cell(text) for text in change.words())} "
            f"| {signed(change.size_delta)} | {_cell(change.reason)} |"
            for change in self.changes
        ]
        if len(rows) > _FOLD:
            lines += ["", f"<details><summary>All {len(rows)} packages</summary>", "", *head, *rows, "", "</details>"]
        elif rows:
            lines += ["", *head, *rows]
        return "\n".join(lines) + "\n"


def _hit(hit: Crossing) -> str:
    verb = "now keeps" if hit.inside else "leaves"
    return f"{hit.package} {hit.before} → {hit.after} {verb} {hit.bound} ({hit.id}): {hit.why}"


def _licence_words(change: Change) -> str:
    old, new = (package.licence if package else None for package in (change.before, change.after))
    licence = f"{old} → {new}" if change.licence_changed else (new or "") if change.new_flags else ""
    return "; ".join(filter(None, [licence, *[MEANING[flag][0] for flag in change.new_flags]]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def signed(size: int | None) -> str:
    """Return a difference in bytes with its sign; "unknown" for None."""
    if size is None:
        return "unknown"
    return f"{'+' if size > 0 else '−' if size < 0 else '±'}{human_bytes(abs(size))}"


def diff(a: Inventory, b: Inventory) -> Difference:
    """Return what `b` has that `a` hasn't, and the other way round.

    Of an explicit lockfile, which has no pip part, only the conda part is compared. Raises InputError when the ledger
    can't be read.
    """
    note = ""
    if "explicit" in (a.kind, b.kind):
        a, b = (replace(i, packages=tuple(p for p in i.packages if p.kind == "conda")) for i in (a, b))
        note = "the conda part only: an explicit lockfile has no other"
    old, new = _by_key(a), _by_key(b)
    changes = [_change(old[key], new[key]) for key in old.keys() & new.keys()]
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    for name, kind in sorted(gone):
        other = (_other_name(name, kind), "conda" if kind == "pip" else "pip")
        other = other if other in come else (name, other[1])
        if other in come:
            come = come - {other}
            changes.append(Change(MOVED, old[name, kind], new[other]))
        else:
            changes.append(Change(REMOVED, old[name, kind], None))
    changes += [Change(ADDED, None, new[key]) for key in come]
    shown = [change for change in changes if change]
    for kind, one in ((ADDED, b), (REMOVED, a)):
        if any(change.kind == kind for change in shown):
            nearest = _requirements(one)
            shown = [replace(c, reason=nearest.get(c.key, "")) if c.kind == kind else c for c in shown]
    found = sorted(shown, key=lambda change: (KINDS.index(change.kind), change.name.lower()))
    return Difference(a, b, tuple(found), tuple(hit for change in found for hit in _hits(change)), note)


def _requirements(inventory: Inventory) -> dict[str, str]:
    """Return the requirement nearest to each package, "" where it is one itself."""
    graph = make_graph(inventory)
    nearest = {key: graph.roots[number] for key, number in graph.owner.items()}
    return {key: root.spec for key, root in nearest.items() if root.key != key}


def _by_key(inventory: Inventory) -> dict[tuple[str, str], Package]:
    return {(package.key, package.kind): package for package in inventory.packages}


def _other_name(key: str, kind: str) -> str:
    names = load_names()
    return str(canonicalize_name(names.to_conda(key) if kind == "pip" else names.to_pypi(key) or key))


def _change(before: Package, after: Package) -> Change | None:
    if before.version != after.version:
        order = _compare(before, after)
        if order:
            return Change(UPGRADED if order < 0 else DOWNGRADED, before, after)
    other_bytes = before.sha256 and after.sha256 and before.sha256 != after.sha256
    if other_bytes or before.build != after.build or (before.version != after.version):
        return Change(REBUILT, before, after)
    return None


def _compare(before: Package, after: Package) -> int:
    """Return -1 when `after` is the newer version, 1 when the older, 0 when they are one version."""
    if before.kind == "pip":
        try:
            left, right = PipVersion(before.version), PipVersion(after.version)
            return (left > right) - (left < right)
        except InvalidVersion:
            pass
    from rattler import Version  # takes a moment, which two equal locks do without
    from rattler.exceptions import InvalidVersionError

    try:
        ours, theirs = Version(before.version), Version(after.version)
    except InvalidVersionError as error:
        raise InputError(f"{after.name}: {error}; expected a version of conda's", None) from error
    return (ours > theirs) - (ours < theirs)


def _hits(change: Change) -> list[Crossing]:
    before, after = change.before, change.after
    if after is None:
        return []
    found = []
    for bound in (one for one in all_bounds() if after.key in one.keys):
        was, now = (holds(before, bound) if before else None), holds(after, bound)
        if now is not None and was is not now and not (was is None and now):
            old = _version(before, True) if before else "nothing"
            found.append(Crossing(after.name, bound.id, bound.text, now, old, _version(after, True), bound.why))
    return found


@dataclass(frozen=True)
class Comparison:
    """What differs between two files or environments, platform by platform, and the platforms that only one has."""

    before: str
    after: str
    differences: tuple[Difference, ...]
    gone: tuple[str, ...] = ()
    come: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether no package and no platform differs."""
        return all(one.equal for one in self.differences) and not (self.gone or self.come)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for scripts."""
        return {
            "before": self.before, "after": self.after, "equal": self.equal, "removed_platforms": list(self.gone),
            "added_platforms": list(self.come), "platforms": [one.to_json() for one in self.differences],
        }  # fmt: skip

    def _platforms(self) -> list[str]:
        both = (("removed", self.gone), ("added", self.come))
        return [f"{word} as a whole: {', '.join(names)}" for word, names in both if names]

    def to_text(self) -> str:
        """Return the comparison for people."""
        return "\n".join([one.to_text() for one in self.differences] + [f"{line}\n" for line in self._platforms()])

    def to_markdown(self) -> str:
        """Return the comparison for a pull request."""
        lines = [f"## {_code(self.before)} → {_code(self.after)}", "", *self._platforms()]
        return "\n".join(lines + [one.to_markdown() for one in self.differences])


def compare(a: Sequence[Inventory], b: Sequence[Inventory]) -> Comparison:
    """Return what differs between two sources, with the inventories of one variant or else one platform paired.

    Where one side is for one platform alone, only that is compared. Raises InputError when nothing can be paired, or
    when several of the other side could be meant.
    """
    pairs = [(one, other) for one in a if (other := _partner(one, b, a))]
    if len(a) == len(b) == 1:
        pairs = [(a[0], b[0])]
    if not pairs:
        raise InputError(
            f"{a[0].source} is for {_labels(a)}, {b[0].source} for {_labels(b)}: nothing to compare",
            "compare what is for the same platform",
        )
    alone = len(a) == 1 or len(b) == 1
    gone = tuple(one.label for one in a if one not in [pair[0] for pair in pairs])
    come = tuple(one.label for one in b if one not in [pair[1] for pair in pairs])
    found = tuple(diff(one, other) for one, other in pairs)
    return Comparison(a[0].source, b[0].source, found, () if alone else gone, () if alone else come)


def _partner(one: Inventory, others: Sequence[Inventory], own: Sequence[Inventory]) -> Inventory | None:
    same = [other for other in others if one.variant and other.variant == one.variant]
    fits = same or [
        other for other in others
        if other.platform == one.platform and other.variant not in {i.variant for i in own if i.variant}
    ]  # fmt: skip
    if len(fits) > 1:
        raise InputError(
            f"{one.source} ({one.label}) could be compared with {_labels(fits)} of {fits[0].source}",
            "choose with --variant",
        )
    return fits[0] if fits else None


def _labels(inventories: Sequence[Inventory]) -> str:
    return ", ".join(inventory.label for inventory in inventories)
