"""The project's own locks as inventories, this machine's variant first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform, project_root
from cogvideo_sat_env.report.inventory import Inventory
from cogvideo_sat_env.report.sources import read
from cogvideo_sat_env.spec.variants import choose_variant, guess_device, read_variants


def inventories(platforms: Sequence[str] = (), variant: str | None = None) -> tuple[Inventory, ...]:
    """Return an inventory for each variant that is asked for (none asked: all), this machine's first.

    `variant` is a variant's id, "cuda" or "cpu". Raises InputError when there is no such variant, or when a lock can't
    be read.
    """
    root, variants = project_root(), read_variants()
    wanted = [
        v for v in variants
        if (not platforms or v.platform in platforms) and (variant in (None, v.id, v.device))
    ]  # fmt: skip
    unknown = [platform for platform in platforms if platform not in {v.platform for v in variants}]
    if not wanted or unknown:
        asked = " ".join(filter(None, [", ".join(unknown or platforms), None if unknown else variant]))
        raise InputError(
            f"there is no lock for {asked}; there is: {', '.join(f'{v.id} ({v.platform})' for v in variants)}",
            "choose with --platform and --variant",
        )
    locks = {name: read(root / name) for name in dict.fromkeys(v.lock for v in wanted)}
    found = [
        replace(next(one for one in locks[v.lock] if one.platform == v.platform), source=v.lock, variant=v.id)
        for v in wanted
    ]  # fmt: skip
    mine = None
    with suppress(InputError):  # a machine that there is no lock for
        mine = choose_variant(variants, current_platform(), guess_device(current_platform())[0]).id
    return tuple(sorted(found, key=lambda one: one.variant != mine))
