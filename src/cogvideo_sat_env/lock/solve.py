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
    from rattler.repo_data import Gateway, RepoDataRecord

MODULE = "lock.solve"
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
    request = _request(channels, specs, subdir, virtual_packages, until)
    request |= {"constraints": list(constraints), "keep": [list(k) for k in keep], "pin": pin}
    found = ask(MODULE, request, "the solver")
    if found.get("kind") in _UNREAD:
        raise _unread(channels, found)
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
    request = _request(channels, specs, subdir, virtual_packages, until) | {"more": list(more), "guard": list(guard)}
    found = ask(MODULE, request, "the solver")
    if found.get("kind") in _UNREAD:
        raise _unread(channels, found)
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


def _request(
    channels: Sequence[str], specs: Sequence[str], subdir: str, virtual_packages: Mapping[str, str], until: str
) -> dict:
    return {
        "channels": _filled(channels),
        "specs": list(specs),
        "subdir": subdir,
        "virtual_packages": dict(virtual_packages),
        "until": until,
        "constraints": [],
        "keep": [],
        "pin": False,
    }


def lookup(channels: Sequence[str], packages: Sequence[tuple[str, str, str]], subdir: str) -> list[dict]:
    """Return the repodata records of exactly these (name, version, build), as far as the channels have them.

    Raises SourceError when a channel can't be read.
    """
    return _records(channels, {"subdir": subdir, "lookup": [list(item) for item in packages]})


def named(channels: Sequence[str], names: Sequence[str], subdirs: Sequence[str]) -> list[dict]:
    """Return all records of exactly these names in `subdirs`.

    Raises SourceError when a channel can't be read.
    """
    return _records(channels, {"names": list(names), "subdirs": list(subdirs), "recursive": False}) if names else []


def closure(channels: Sequence[str], names: Sequence[str], subdirs: Sequence[str]) -> list[dict]:
    """Return all records of `names` in `subdirs`, and of every name that any of them depends on.

    Raises SourceError when a channel can't be read.
    """
    return _records(channels, {"names": list(names), "subdirs": list(subdirs)})


def _records(channels: Sequence[str], request: dict) -> list[dict]:
    found = ask(MODULE, {"channels": _filled(channels), **request}, "the solver")
    if "error" in found:
        raise _unread(channels, found)
    return found["records"]


def _filled(channels: Sequence[str]) -> list[str]:
    return [Address(channel).reveal() for channel in channels]


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


async def _solve(request: dict) -> dict:
    records = await _Engine(request).solve(request["specs"])
    return {"records": [_as_dict(record) for record in sorted(records, key=lambda record: record.name.normalized)]}


class _Engine:
    """rattler on the channels of one request, read once."""

    def __init__(self, request: dict) -> None:
        from rattler import Channel, GenericVirtualPackage, PackageName, Subdir, Version
        from rattler.package import BuildString
        from rattler.repo_data import Gateway

        self._gateway, self._request = Gateway(), request
        self._channels = [Channel(url) for url in request["channels"]]
        self._platforms = [Subdir(request["subdir"]), Subdir("noarch")]
        self._virtual = []
        for name, value in request["virtual_packages"].items():
            version, _, build = value.partition(" ")
            self._virtual.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))

    async def solve(self, specs: Sequence[str]) -> list[RepoDataRecord]:
        """Return the solution. Raises rattler's exceptions."""
        from rattler import solve as rattler_solve
        from rattler.channel import ChannelPriority

        request = self._request
        keep = [tuple(item) for item in request["keep"]]
        kept = await _exact(self._gateway, self._channels, self._platforms, keep)
        held: Any = {"pinned_packages" if request["pin"] else "locked_packages": kept}
        return await rattler_solve(
            self._channels,
            list(specs),
            gateway=self._gateway,
            platforms=self._platforms,
            virtual_packages=self._virtual,
            **held,
            constraints=request["constraints"],
            channel_priority=ChannelPriority.Strict,
            exclude_newer=datetime.fromisoformat(request["until"]) if request["until"] else None,
            timestamp_policy="allow-missing",
        )


async def _fit(request: dict) -> dict:
    """Say of each of `more` why it doesn't fit with `specs` and those before it; all at once where they do."""
    from rattler.exceptions import SolverError

    engine, base, more = _Engine(request), request["specs"], request["more"]
    without: dict[str, Any] = {}

    async def why_not(added: list[str]) -> str:
        try:
            found = {record.name.normalized: record.version for record in await engine.solve([*base, *added])}
        except SolverError:
            return "doesn't solve together with the rest"
        if request["guard"] and not without:
            without.update({record.name.normalized: record.version for record in await engine.solve(base)})
        for name in request["guard"]:
            if found[name] < without[name]:
                return f"would lower {name} from {without[name]} to {found[name]}"
        return ""

    if not await why_not(more):
        return {"found": dict.fromkeys(more, "")}
    answers: dict[str, str] = {}
    for spec in more:
        answers[spec] = await why_not([*(taken for taken, why in answers.items() if not why), spec])
    return {"found": answers}


async def _lookup(request: dict) -> dict:
    from rattler import Channel, Subdir
    from rattler.repo_data import Gateway

    channels = [Channel(url) for url in request["channels"]]
    platforms = [Subdir(request["subdir"]), Subdir("noarch")]
    packages = [tuple(item) for item in request["lookup"]]
    found = await _exact(Gateway(), channels, platforms, packages)
    return {"records": [_as_dict(record) for record in found]}


async def _closure(request: dict) -> dict:
    from rattler import Channel, Subdir
    from rattler.repo_data import Gateway

    channels = [Channel(url) for url in request["channels"]]
    platforms = [Subdir(name) for name in request["subdirs"]]
    found = await Gateway().query(channels, platforms, request["names"], recursive=request.get("recursive", True))
    return {"records": [_as_dict(record) for records in found for record in records]}


async def _exact(gateway: Gateway, channels: list, platforms: list, packages: list[tuple[str, str, str]]) -> list:
    """Return the records of exactly these (name, version, build), as far as the channels have them."""
    if not packages:
        return []
    specs = [f"{name} =={version} {build}" for name, version, build in packages]
    wanted = set(packages)
    found = await gateway.query(channels, platforms, specs, recursive=False)
    return [
        record
        for records in found
        for record in records
        if (record.name.normalized, str(record.version), str(record.build)) in wanted
    ]


def _as_dict(record: RepoDataRecord) -> dict:
    return {**json.loads(record.to_json()), "url": record.url, "channel": str(record.channel)}


def main(request: dict) -> dict:
    """Solve, look up or collect, as `request` says."""
    for key, work in {"lookup": _lookup, "names": _closure, "more": _fit}.items():
        if key in request:
            return asyncio.run(work(request))
    return asyncio.run(_solve(request))


if __name__ == "__main__":
    answer(main)
