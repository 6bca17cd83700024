"""Solving with rattler, in a process of its own: py-rattler can abort while it formats some conflicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.child import answer, ask
from cogvideo_sat_env.base.errors import SolveError, SourceError
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.fetch.redact import redact

if TYPE_CHECKING:
    from rattler.repo_data import RepoDataRecord

_UNREAD = ("GatewayError", "FetchRepoDataError")  # of rattler: a channel, not a solution, is the trouble


def solve(
    channels: Sequence[str],
    specs: Sequence[str],
    subdir: str,
    virtual_packages: Mapping[str, str],
    *,
    constraints: Sequence[str] = (),
    keep: Sequence[tuple[str, str, str]] = (),
    pin: bool = False,
    until: str = "",
) -> list[dict]:
    """Solve `specs` for `subdir` over `channels` (URLs, strict priority in this order).

    `virtual_packages` maps names to "version" or "version build". `constraints` hold without asking for the package.
    `keep` are (name, version, build) that stay unless a spec forces them to move; with `pin` they stay
    whatever the specs want. Records published after `until` (ISO 8601, UTC) are passed over, those without a time are
    not. Returns repodata records as dictionaries with `url` and `channel`. Raises SolveError with the solver's reason,
    also when the solver crashes; SourceError when a channel can't be read.
    """
    problem = _problem(specs, subdir, virtual_packages, until)
    found = _ask(channels, problem | {"constraints": list(constraints), "keep": list(keep), "pin": pin})
    if "error" in found:
        raise SolveError(
            f"can't solve for {subdir}: {found['error']}\nspecs: {', '.join(specs)}",
            "change the bound that the reason names, or the channels",
        )
    return found["records"]


def fits(
    channels: Sequence[str],
    specs: Sequence[str],
    more: Sequence[str],
    subdir: str,
    virtual_packages: Mapping[str, str],
    *,
    guard: Sequence[str] = (),
    until: str = "",
) -> dict[str, str]:
    """Return for each of the specs `more` why it doesn't fit with `specs`, and with those before it that do; "" if so.

    None may lower the version that a package of `guard` has without them. Raises SourceError when a channel can't be
    read, SolveError when `specs` alone have no solution.
    """
    problem = _problem(specs, subdir, virtual_packages, until)
    found = _ask(channels, problem | {"more": list(more), "guard": list(guard)})
    if found.get("kind"):
        raise SolveError(f"can't solve for {subdir}: {found['error']}\nspecs: {', '.join(specs)}", None)
    if "error" not in found:
        return found["found"]
    if len(more) == 1:  # the solver died of its own message
        return {more[0]: "doesn't solve together with the rest"}
    answers: dict[str, str] = {}
    for spec in more:
        taken = [other for other, why in answers.items() if not why]
        answers |= fits(channels, [*specs, *taken], [spec], subdir, virtual_packages, guard=guard, until=until)
    return answers


def _problem(specs: Sequence[str], subdir: str, virtual_packages: Mapping[str, str], until: str) -> dict[str, Any]:
    return {
        "specs": list(specs),
        "subdirs": [subdir, "noarch"],
        "virtual_packages": dict(virtual_packages),
        "until": until,
    }


def lookup(channels: Sequence[str], packages: Sequence[tuple[str, str, str]], subdir: str) -> list[dict]:
    """Return the repodata records of exactly these (name, version, build), as far as the channels have them.

    Raises SourceError when a channel can't be read.
    """
    return _records(channels, {"subdirs": [subdir, "noarch"], "exactly": list(packages)})


def named(
    channels: Sequence[str],
    names: Sequence[str],
    subdirs: Sequence[str],
    *,
    recursive: bool = False,
    until: datetime | None = None,
) -> list[dict]:
    """Return all records of `names` in `subdirs`; with `recursive` also of every name that any of them depends on.

    Those published after `until` are left out. Raises SourceError when a channel can't be read.
    """
    request = {"names": list(names), "subdirs": list(subdirs), "recursive": recursive}
    records = _records(channels, request) if names else []
    return [r for r in records if until is None or (r.get("timestamp") or 0) <= until.timestamp() * 1000]


def _records(channels: Sequence[str], request: dict) -> list[dict]:
    found = _ask(channels, request)
    if "error" in found:
        raise _unread(channels, found)
    return found["records"]


def _ask(channels: Sequence[str], request: dict) -> dict:
    found = ask("lock.solve", request | {"channels": [Address(channel).reveal() for channel in channels]}, "the solver")
    if found.get("kind") in _UNREAD:
        raise _unread(channels, found)
    return found


def _unread(channels: Sequence[str], found: dict) -> SourceError:
    return SourceError(
        redact(f"can't read the metadata of {', '.join(channels)}: {found['error']}"),
        "check the network and the channels",
    )


def require_answers(channels: Sequence[str]) -> None:
    """Raise SourceError for a channel whose server doesn't answer: rattler would wait for it without end.

    A refusal of this program's credentials is none of rattler's, and let pass.
    """
    for channel in channels:
        if not channel.startswith(("http://", "https://")):
            continue
        for name in ("repodata.json.zst", "repodata.json", "repodata_shards.msgpack.zst"):
            reason = why_unreachable(f"{channel}/noarch/{name}")
            if reason is None or reason.startswith(("answers 401", "answers 403", "answers 407")):
                break
            if not reason.startswith("answers 4"):
                raise SourceError(f"{redact(channel)}: {reason}", "check the network, the address and the proxies")
        else:
            raise SourceError(f"{redact(channel)}: {reason} for its noarch/repodata.json", "is that a channel?")


class _Engine:
    """rattler on the channels of one request, read once. Its methods raise rattler's exceptions."""

    def __init__(self, request: dict) -> None:
        from rattler import Channel, Subdir
        from rattler.repo_data import Gateway

        self._gateway, self._request = Gateway(), request
        self._channels = [Channel(url) for url in request["channels"]]
        self._platforms = [Subdir(name) for name in request["subdirs"]]

    async def query(self, specs: Sequence[str], recursive: bool = False) -> list[RepoDataRecord]:
        """Return the records that match `specs`, and with `recursive` those of every name that any depends on."""
        found = await self._gateway.query(self._channels, self._platforms, specs, recursive=recursive)
        return [record for records in found for record in records]

    async def exactly(self, packages: Sequence[Sequence[str]]) -> list[RepoDataRecord]:
        """Return the records of exactly these (name, version, build), as far as the channels have them."""
        if not packages:
            return []
        wanted = set(map(tuple, packages))
        found = await self.query([f"{name} =={version} {build}" for name, version, build in packages])
        return [r for r in found if (r.name.normalized, str(r.version), str(r.build)) in wanted]

    async def solve(self, specs: Sequence[str]) -> list[RepoDataRecord]:
        """Return the solution."""
        from rattler import GenericVirtualPackage, PackageName, Version
        from rattler import solve as rattler_solve
        from rattler.channel import ChannelPriority
        from rattler.package import BuildString

        request = self._request
        virtual = []
        for name, value in request["virtual_packages"].items():
            version, _, build = value.partition(" ")
            virtual.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))
        kept = await self.exactly(request.get("keep", ()))
        held: Any = {"pinned_packages" if request.get("pin") else "locked_packages": kept}
        return await rattler_solve(
            self._channels,
            list(specs),
            gateway=self._gateway,
            platforms=self._platforms,
            virtual_packages=virtual,
            **held,
            constraints=request.get("constraints", []),
            channel_priority=ChannelPriority.Strict,
            exclude_newer=datetime.fromisoformat(request["until"]) if request["until"] else None,
            timestamp_policy="allow-missing",
        )


async def _fit(engine: _Engine, base: list[str], more: list[str], guard: list[str]) -> dict[str, str]:
    """Say of each of `more` why it doesn't fit with `base` and those before it; all at once where they do."""
    from rattler.exceptions import SolverError

    without: dict[str, Any] = {}

    async def why_not(added: list[str]) -> str:
        try:
            found = {record.name.normalized: record.version for record in await engine.solve([*base, *added])}
        except SolverError:
            return "doesn't solve together with the rest"
        if guard and not without:
            without.update({record.name.normalized: record.version for record in await engine.solve(base)})
        for name in guard:
            if found[name] < without[name]:
                return f"would lower {name} from {without[name]} to {found[name]}"
        return ""

    if not await why_not(more):
        return dict.fromkeys(more, "")
    answers: dict[str, str] = {}
    for spec in more:
        answers[spec] = await why_not([*(taken for taken, why in answers.items() if not why), spec])
    return answers


async def _answer(request: dict) -> dict:
    """Solve, look up or collect, as `request` says."""
    engine = _Engine(request)
    if "more" in request:
        return {"found": await _fit(engine, request["specs"], request["more"], request["guard"])}
    if "exactly" in request:
        records = await engine.exactly(request["exactly"])
    elif "names" in request:
        records = await engine.query(request["names"], request["recursive"])
    else:
        records = sorted(await engine.solve(request["specs"]), key=lambda record: record.name.normalized)
    return {"records": [{**json.loads(r.to_json()), "url": r.url, "channel": str(r.channel)} for r in records]}


if __name__ == "__main__":
    answer(lambda request: asyncio.run(_answer(request)))
