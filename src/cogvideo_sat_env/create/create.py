"""`satenv create`: choose lock and source, install, prove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import cache_use
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import cache_dir, current_platform, envs_dir, project_root, user_path
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.create.source_plan import CUDA_WHEELS, choose_plan, inputs_digest
from cogvideo_sat_env.install import preflight, receipt
from cogvideo_sat_env.install.job import Job, Options, Plan, source_kind
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.source.source import Source, parse_sources
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.variants import Variant, choose_variant, guess_device, read_variants


@dataclass(frozen=True)
class CreateRequest:
    """What the user asked for.

    `sources` in the order to try them, `variant` "auto", "cuda" or "cpu", `python` the one to build wheels on, `lock` a
    conda-lock file in place of the project's; `doctor`: prove the result. `place` says where the prefix comes, in place
    of `prefix` and `name`, once it is known what will be in it.
    """

    prefix: Path | None = None
    name: str | None = None
    sources: Sequence[str] = ("auto",)
    variant: str = "auto"
    platform: str | None = None
    python: Path | None = None
    lock: Path | None = None
    doctor: bool = True
    options: Options = field(default_factory=Options)
    place: Callable[[Plan], Path] | None = None


def create(request: CreateRequest, progress: Progress) -> InstallOutcome:
    """Make the environment and prove it. Raises the errors of base/errors.py."""
    root = project_root()
    environment = read_environment(root / "environment.yml")
    target = target_prefix(request.prefix, request.name, environment)
    found = receipt.read(target)
    if found and request.options.repair:
        request = as_made(request, target, found)
    wanted = parse_sources(request.sources)
    platform = request.platform or current_platform()
    chosen, why = _variant(platform, request.variant, wanted)
    preflight.require_platform(platform)
    require_buildable(target, chosen)
    lock = request.lock
    if lock is not None:
        if wanted.kind == "wheels":
            raise InputError(
                "--lock names conda packages; the wheels source has locks of its own (locks/wheels-*.txt)",
                "leave --lock out, or name --source channel or mirror=WHERE",
            )
        chosen = chosen.with_lock(root, lock)
    quick = found and request.python is None and not request.options.repair
    if request.variant == "cpu" and found and found.get("source") == "wheels":
        quick = False  # they are of no CPU variant
    if quick and receipt.is_up_to_date(target, found, *_inputs(root, chosen, wanted, found)):
        packages = len(found["packages"]) + len(found["pip"])
        return InstallOutcome(target, "up-to-date", found["source"], found["variant"], packages=packages)
    preflight.require_prefix(target)
    preflight.require_places(cache_dir())
    if wanted.kind == "wheels":
        preflight.require_writable_cache(cache_dir(), "converted wheels")
    start = time.perf_counter()
    with cache_use.in_use(cache_dir(), progress):
        plan = choose_plan(root, environment, chosen, wanted, request.python, progress, guessed=bool(why))
        target = request.place(plan) if request.place else target
        if why and str(plan.source) != "wheels":
            progress.say(why)
        prepared = time.perf_counter() - start
        outcome = install_plan(target, plan, request.options, progress)
    outcome = replace(outcome, seconds={"prepare": prepared, **outcome.seconds})
    return prove(outcome, progress) if request.doctor and outcome.status in ("created", "replaced") else outcome


def target_prefix(prefix: Path | None, name: str | None, environment: Environment) -> Path:
    """Return the prefix that -p and -n mean. Raises InputError."""
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if name is not None and (not name or "/" in name or name.startswith(".")):
        raise InputError(f"-n {name!r}: not a name for an environment", "give a name without '/', or a folder with -p")
    folder = envs_dir() / (name or environment.name) if prefix is None else user_path(str(prefix))
    return Path(os.path.abspath(folder))


def as_made(request: CreateRequest, prefix: Path, found: Mapping[str, Any]) -> CreateRequest:
    """Return `request` with what the user left open as the environment at `prefix` was made, by its receipt `found`.

    Raises InputError for one that was made from a bundle, or whose own lock is gone.
    """
    kind = source_kind(str(found.get("source", "")))
    sources = [source for source in request.sources if source != "auto"]
    if not sources and kind == "bundle":
        raise InputError(
            f"{prefix}: was made from a bundle",
            f"have that one do it: python3 BUNDLE.pyz install -p {prefix} --repair; or name another --source"
            if request.options.repair
            else f"update it with the new one: python3 NEW.pyz install -p {prefix} --replace; or name another --source",
        )
    devices = {variant.id: variant.device for variant in read_variants()}
    variant = devices.get(str(found.get("variant")), "auto") if request.variant in ("", "auto") else request.variant
    python = request.python
    if python is None and kind == "wheels" and (not sources or sources == ["wheels"]):
        python = _python_of(prefix, found)
    return replace(
        request, sources=sources or str(found["source"]).split(), variant=variant, python=python,
        lock=request.lock or own_lock(prefix, found),
    )  # fmt: skip


def _python_of(prefix: Path, found: Mapping[str, Any]) -> Path | None:
    """Return the interpreter that an environment of wheels was made on, None where nothing tells any more."""
    made = str(found.get("python") or os.path.realpath(prefix / "bin" / "python"))
    return Path(made) if os.path.isfile(made) and not Path(made).is_relative_to(prefix) else None


def own_lock(prefix: Path, found: Mapping[str, Any]) -> Path | None:
    """Return the lock that an environment was made from where it isn't one of the project's.

    Raises InputError when it is gone.
    """
    path = Path(str(found.get("lock", "")))
    if not path.is_absolute():
        return None
    if not path.is_file():
        raise InputError(f"{path}: no such file; {prefix} was made from that lock", "name a lock with --lock")
    return path


def require_buildable(target: Path, variant: Variant) -> None:
    """Raise InputError for a prefix in which training can't work, before anything is fetched."""
    if not variant.data_only and any(character.isspace() for character in str(target)):
        raise InputError(
            f"{str(target)!r} holds a space: torch links run-time compiled extensions with unquoted paths, so that "
            "DeepSpeed's can't be built there",
            "choose a prefix without spaces with -p",
        )


def _variant(platform: str, device: str, source: Source) -> tuple[Variant, str]:
    """Return the variant and, where this machine decided, why; the latter is of no account for wheels."""
    variants = read_variants()
    if source.kind == "wheels":
        if device == "cpu":
            raise InputError(
                f"the wheels source has no CPU variant: {CUDA_WHEELS}",
                "leave --variant out",
            )
        return choose_variant(variants, platform, "cuda"), ""
    if device != "auto":
        return choose_variant(variants, platform, device), ""
    device, reason = guess_device(platform)
    return choose_variant(variants, platform, device), f"Variant {device}: {reason}"


def _inputs(root: Path, variant: Variant, source: Source, found: dict[str, Any]) -> set[str]:
    """Return the digests of what may have been put in, without parsing it: "nothing to do" is answered in a moment.

    With the source `auto`, whatever was used for the environment that is there counts as the same again.
    """
    used = source_kind(str(found.get("source", "")))
    if source.kind not in ("auto", used):
        return set()
    if used == "wheels" and variant.has_own_lock:
        return set()
    if used == "wheels":
        lock = root / "locks" / str(found.get("lock", ""))
        return {inputs_digest(root, lock, "wheels", variant)} if lock.is_file() else set()
    return {inputs_digest(root, root / variant.lock, used, variant)}


def install_plan(target: Path, plan: Plan, options: Options, progress: Progress) -> InstallOutcome:
    """Make the prefix hold what `plan` says. Raises the errors of install_prefix."""
    from cogvideo_sat_env.base.cache_layers import layers_from_environment
    from cogvideo_sat_env.install.transaction import install_prefix

    return install_prefix(Job(target, plan, cache_dir(), progress, options, layers_from_environment()))


def prove(outcome: InstallOutcome, progress: Progress) -> InstallOutcome:
    """Run the doctor's quick level on what was made; return the outcome with its report."""
    from cogvideo_sat_env import doctor
    from cogvideo_sat_env.doctor.command import show_check

    progress.say(f"Doctor, quick level ({satenv('doctor')} runs all of it)")
    start = time.perf_counter()
    report = doctor.run(outcome.prefix, level="quick", on_check=show_check)
    return replace(outcome, report=report, seconds={**outcome.seconds, "doctor": time.perf_counter() - start})
