"""`satenv create`: choose lock and source, install, prove."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.errors import InputError, SourceError
from cogvideo_sat_env.install import activation, receipt, staging
from cogvideo_sat_env.paths import cache_dir, current_platform, envs_dir, project_root
from cogvideo_sat_env.progress import Progress, human_bytes
from cogvideo_sat_env.sources import Source, guess_device, parse_source, why_unreachable
from cogvideo_sat_env.spec import Environment, read_environment
from cogvideo_sat_env.variants import Variant, choose_variant, derive, read_variants

if TYPE_CHECKING:
    from cogvideo_sat_env.doctor import Report
    from cogvideo_sat_env.lock.model import CondaArtefact, PipPin

PREFERRED_PYTHON = "3.11"  # the one of environment.yml


@dataclass(frozen=True)
class Options:
    """How to install, apart from what: see `install_prefix`."""

    replace: bool = False
    repair: bool = False
    keep: bool = False
    full: bool = False
    break_lock: bool = False
    allow_link_scripts: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What is to be in the prefix, and where its bytes are."""

    source: Source
    variant: Variant
    artefacts: Sequence[CondaArtefact]
    pip_pins: Sequence[PipPin]
    requested: Sequence[str]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What `create` did, for people and for scripts. `seconds` by stage; `bytes` of the archives."""

    prefix: Path
    status: str
    source: str
    variant: str
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    packages: int = 0
    files: int = 0
    not_provided: Sequence[dict[str, str]] = ()
    link_scripts: Sequence[str] = ()
    collisions: Sequence[str] = ()
    report: Report | None = None
    link_scripts_run: Sequence[str] = ()
    mended: Sequence[str] = ()
    kept: str = ""

    @property
    def exit_code(self) -> int:
        """0, or the doctor's code."""
        return self.report.exit_code if self.report else 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as documented in the README; the keys are stable."""
        return {
            "prefix": str(self.prefix),
            "status": self.status,
            "source": self.source,
            "variant": self.variant,
            "packages": self.packages,
            "bytes": self.bytes,
            "files": self.files,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "not_provided": list(self.not_provided),
            "link_scripts_not_run": list(self.link_scripts),
            "link_scripts_run": list(self.link_scripts_run),
            "mended": list(self.mended),
            "kept": self.kept or None,
            "collisions": list(self.collisions),
            "doctor": self.report.to_json() if self.report else None,
            "activate": activation.activation_command(self.prefix),
            "exit_code": self.exit_code,
        }

    def to_text(self) -> str:
        """Return the outcome for people."""
        from cogvideo_sat_env.doctoring import report_text

        if self.status == "up-to-date":
            if self.seconds:  # every byte was compared
                return f"{self.prefix} is as it should be ({self.packages} packages, {self.files:,} files)\n"
            return f"{self.prefix} is up to date ({self.packages} packages, from {self.source}); nothing to do\n"
        lines = []
        if self.report:
            lines += [report_text(self.report).rstrip(), ""]
        for item in self.not_provided:
            lines.append(f"not provided by wheels: {item['spec']} ({item['reason']})")
        if self.link_scripts:
            lines.append(f"link scripts were not run: {', '.join(self.link_scripts)}")
        if self.link_scripts_run:
            lines.append(f"link scripts were run, as allowed: {', '.join(self.link_scripts_run)}")
        lines += [f"two packages ship the same file: {collision}" for collision in self.collisions]
        lines.append(
            f"{self.prefix}: {self.status} from {self.source}, {self.packages} packages, {human_bytes(self.bytes)}, "
            f"{self.files:,} files, {sum(self.seconds.values()):.0f} s"
        )
        if self.mended:
            lines += [f"put right: {entry}" for entry in self.mended]
            return "\n".join(lines) + "\n"
        if self.kept:
            lines.append(f"What was there before is kept: satenv undo -p {self.prefix} (or --forget to free its space)")
        lines += ["", "Activate it with:", activation.activation_command(self.prefix)]
        return "\n".join(lines) + "\n"


def create(
    *,
    prefix: Path | None,
    name: str | None,
    source: str,
    variant: str,
    platform: str | None,
    python: Path | None,
    options: Options,
    doctor: bool,
    progress: Progress,
) -> Outcome:
    """Make the environment and prove it. The arguments are the command line's; errors are those of errors.py."""
    root = project_root()
    environment = read_environment(root / "environment.yml")
    wanted = parse_source(source)
    platform = platform or current_platform()
    target = target_prefix(prefix, name, environment)
    chosen, why = _variant(platform, variant, wanted)
    require_buildable(target, chosen)
    found = receipt.read(target)
    quick = found and python is None and not options.repair
    if quick and _is_same(target, found, _inputs(root, chosen, wanted, found)):
        packages = len(found["packages"]) + len(found["pip"])
        return Outcome(target, "up-to-date", found["source"], found["variant"], packages=packages)
    start = time.perf_counter()
    plan = _plan(root, environment, chosen, wanted, python, progress)
    if why and plan.source.kind != "wheels":
        progress.say(why)
    prepared = time.perf_counter() - start
    outcome = install_plan(target, plan, environment, options, progress)
    outcome = replace(outcome, seconds={"prepare": prepared, **outcome.seconds})
    return prove(outcome, progress) if doctor and outcome.status in ("created", "replaced") else outcome


def target_prefix(prefix: Path | None, name: str | None, environment: Environment) -> Path:
    """Return the prefix that -p and -n mean. Raises InputError."""
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if name is not None and (not name or "/" in name or name.startswith(".")):
        raise InputError(f"-n {name!r}: not a name for an environment", "give a name without '/', or a folder with -p")
    return (prefix if prefix is not None else envs_dir() / (name or environment.name)).absolute()


def _is_same(target: Path, found: dict[str, Any], inputs: set[str]) -> bool:
    """Whether the prefix is what these inputs make, whole, and no killed run has left anything beside it."""
    return found.get("inputs") in inputs and _nothing_left(target) and not receipt.missing(target, found)


def require_buildable(target: Path, variant: Variant) -> None:
    """Raise InputError for a prefix in which training can't work, before anything is fetched."""
    if not variant.data_only and any(character.isspace() for character in str(target)):
        raise InputError(
            f"{str(target)!r} holds a space: torch links run-time compiled extensions with unquoted paths, so that "
            "DeepSpeed's can't be built there",
            "choose a prefix without spaces with -p",
        )


def _nothing_left(target: Path) -> bool:
    """Whether no killed run has left anything beside the prefix that this run could remove."""
    return not (staging.any_left(target) and os.access(target.parent, os.W_OK))


def _variant(platform: str, device: str, source: Source) -> tuple[Variant, str]:
    """Return the variant and, where this machine decided, why; the latter is of no account for wheels."""
    variants = read_variants()
    if source.kind == "wheels":
        if device == "cpu":
            raise InputError(
                "the wheels source has no CPU variant: PyTorch on a package index is its CUDA build, which runs "
                "on a CPU as well",
                "leave --variant out",
            )
        return choose_variant(variants, platform, "cuda"), ""
    if device != "auto":
        return choose_variant(variants, platform, device), ""
    device, reason = guess_device(platform)
    return choose_variant(variants, platform, device), f"Variant {device}: {reason}"


def _inputs(root: Path, variant: Variant, source: Source, found: dict[str, Any]) -> set[str]:
    """Return the digests of what may have been put in, without parsing it: "nothing to do" is said in a moment.

    With the source `auto`, whatever was used for the environment that is there counts as the same again.
    """
    used = str(found.get("source", "")).partition("=")[0]
    if source.kind not in ("auto", used):
        return set()
    if used == "wheels":
        lock = root / "locks" / str(found.get("lock", ""))
        return {inputs_digest(root, lock, "wheels", variant)} if lock.is_file() else set()
    return {inputs_digest(root, root / variant.lock, used, variant)}


def inputs_digest(root: Path, lock: Path, kind: str, variant: Variant) -> str:
    """Return a SHA-256 over everything that decides the content of the prefix: files, variant, this program."""
    digest = hashlib.sha256()
    variant_id = "" if kind == "wheels" else variant.id
    digest.update(f"{__version__} {kind} {variant_id} {activation.load().version}".encode())
    for path in (root / "environment.yml", lock):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"absent")
    return digest.hexdigest()


def _plan(
    root: Path, environment: Environment, variant: Variant, source: Source, python: Path | None, progress: Progress
) -> Plan:
    if source.kind in ("auto", "channel", "mirror"):
        plan = lock_plan(root, environment, variant, source)
        if source.kind != "auto":
            return plan
        first = plan.artefacts[0]
        reason = why_unreachable(first.url)
        if reason is None:
            progress.say("Source: the lock's channels, which answer")
            return replace(plan, source=Source("channel"))
        progress.say(f"{first.channel}: {reason}")
        progress.say("Source: wheels from the package index, because the lock's channels don't answer")
    try:
        return _wheels_plan(root, environment, variant, python, progress)
    except InputError as error:
        if source.kind != "auto":
            raise
        raise SourceError(
            f"the lock's channels don't answer, and there are no wheels for this machine: {error.message}",
            "check the network, name a mirror with --source mirror=WHERE, or use a Python that has a wheel lock",
        ) from error


def lock_plan(root: Path, environment: Environment, variant: Variant, source: Source) -> Plan:
    """Return what the lock of `variant` says, to be had from `source`. Raises InputError."""
    from cogvideo_sat_env.lock.model import read_lock
    from cogvideo_sat_env.lock.render import read_sizes

    path = root / variant.lock
    lock = read_lock(path, variant.platform, read_sizes(root))
    derived = derive(environment, variant, root / variant.environment)
    kind = "channel" if source.kind == "auto" else source.kind
    facts = {
        "variant": variant.id,
        "lock": variant.lock,
        "lock_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": inputs_digest(root, path, kind, variant),
        "data_only": bool(variant.data_only),
        "not_provided": [],
    }
    return Plan(source, variant, lock.conda, lock.pip, [str(spec) for spec in derived.conda], facts)


def _wheels_plan(
    root: Path, environment: Environment, variant: Variant, python: Path | None, progress: Progress
) -> Plan:
    from dataclasses import asdict

    from cogvideo_sat_env.wheels.channel import build_channel

    interpreter, lock = wheel_python(root / "locks", python)
    progress.say(
        "These are a package index's wheels in conda packages, not conda-forge's binaries; "
        f"Python is the one at {interpreter.base} ({interpreter.version}), which has to stay there"
    )
    channel = build_channel(environment, lock, python=interpreter.executable, cache=cache_dir(), progress=progress)
    facts = {
        "variant": "wheels",
        "lock": lock.name,
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "inputs": inputs_digest(root, lock, "wheels", variant),
        "data_only": False,
        "not_provided": [asdict(item) for item in channel.not_provided],
    }
    return Plan(Source("wheels"), variant, channel.artefacts, (), channel.specs, facts)


def wheel_python(locks: Path, named: Path | None) -> tuple[Any, Path]:
    """Return the interpreter that becomes the package `python`, and its wheel lock: 3.11 where there is one."""
    from cogvideo_sat_env.wheels.interpreter import probe
    from cogvideo_sat_env.wheels.lock import default_lock

    if named is not None:
        interpreter = probe(named)
        return interpreter, default_lock(locks, interpreter)
    preferred = shutil.which(f"python{PREFERRED_PYTHON}")
    for candidate in filter(None, [preferred, sys.executable]):
        try:
            interpreter = probe(Path(candidate))
            return interpreter, default_lock(locks, interpreter)
        except InputError as error:
            failure = error
    raise failure


def install_plan(
    target: Path, plan: Plan, environment: Environment, options: Options, progress: Progress
) -> Outcome:
    """Make the prefix hold what `plan` says. Raises the errors of install_prefix."""
    from cogvideo_sat_env.install.store import layers_from_environment
    from cogvideo_sat_env.install.transaction import install_prefix

    variables = {k: v for k, v in environment.variables.items() if k not in plan.variant.drop_variables}
    result = install_prefix(
        target,
        platform=plan.variant.platform,
        artefacts=plan.artefacts,
        pip_pins=plan.pip_pins,
        locate=plan.source.locate,
        source=str(plan.source),
        receipt_facts=plan.facts,
        activation=activation.load(),
        variables=variables,
        cache=cache_dir(),
        progress=progress,
        replace=options.replace,
        repair=options.repair,
        keep=options.keep,
        full=options.full,
        break_lock=options.break_lock,
        allow_link_scripts=options.allow_link_scripts,
        layers=layers_from_environment(),
        requested=plan.requested,
        find_links=plan.source.find_links() if plan.pip_pins else (),
    )
    return Outcome(
        target,
        result.status,
        str(plan.source),
        plan.facts["variant"],
        dict(result.stages),
        result.bytes,
        result.packages,
        result.files,
        plan.facts["not_provided"],
        result.link_scripts,
        result.collisions,
        link_scripts_run=result.link_scripts_run,
        mended=result.mended,
        kept=result.kept,
    )


def prove(outcome: Outcome, progress: Progress) -> Outcome:
    """Run the doctor's quick level on what was made; return the outcome with its report."""
    from cogvideo_sat_env import doctor
    from cogvideo_sat_env.doctoring import show_check

    progress.say("Doctor, quick level (satenv doctor runs all of it)")
    start = time.perf_counter()
    report = doctor.run(outcome.prefix, level="quick", on_check=show_check)
    return replace(outcome, report=report, seconds={**outcome.seconds, "doctor": time.perf_counter() - start})
