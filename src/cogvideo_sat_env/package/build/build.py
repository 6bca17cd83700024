"""`satenv build`: recipe/ into an indexed local channel."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError, SolveError, VerificationError
from cogvideo_sat_env.base.paths import cache_dir, current_platform
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.timestamp import timestamp
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.package.build.build_channels import (
    BuildChannels,
    find_base,
    whole_environment,
    whole_environment_to_fetch,
)
from cogvideo_sat_env.package.build.failure import explain, log_lines
from cogvideo_sat_env.package.build.outputs import READERS, Output, inputs_digest, plan
from cogvideo_sat_env.package.build.repack import repack
from cogvideo_sat_env.package.build.target_channel import Channel, Made
from cogvideo_sat_env.package.build.worker import do
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import read_variants


@dataclass
class Built:
    """One package of the result. `status` is built or kept; `tests` says in words what was run."""

    name: str
    version: str
    build: str
    file: str
    status: str
    tests: str
    sha256: str = ""
    size: int = 0


@dataclass
class BuildOutcome:
    """What a build came to. `status` is built, or up-to-date when nothing had to be made."""

    channel: Path
    platform: str
    status: str
    packages: list[Built] = field(default_factory=list)
    alternatives: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {**asdict(self), "channel": str(self.channel), "url": self.channel.resolve().as_uri()}

    def to_text(self) -> str:
        """Return the summary for people."""
        lines = [f"{self.channel}: {self.status} for {self.platform}, {len(self.packages)} packages"]
        lines += [f"  {item.file}  {human_bytes(item.size)}  {item.status}; {item.tests}" for item in self.packages]
        lines += [f"  {name} isn't there for {self.platform}: {other}" for name, other in self.alternatives.items()]
        lines.append(f"conda install -c {self.channel.resolve().as_uri()} -c conda-forge -c nvidia cogvideo-sat-env")
        return "\n".join(lines) + "\n"


ALL_TESTS = "--all-tests"


@dataclass(frozen=True)
class BuildOptions:
    """The options of `satenv build`.

    `platform` is a conda subdir (None: this machine's), `variants` devices or names of data/variants.yml (none: all);
    `wheelhouse` takes the place of the package index, `channels` that of environment.yml's. `all_tests`: fetch PyTorch
    for the tests where it has to come from the package index.
    """

    platform: str | None = None
    variants: Sequence[str] = ()
    wheelhouse: Path | None = None
    channels: Sequence[str] = ()
    test: bool = True
    all_tests: bool = False


def build(root: Path, out: Path, options: BuildOptions, progress: Progress) -> BuildOutcome:
    """Build the packages of the recipe of the project `root` into the channel `out`, index last.

    What is there already from the same inputs is kept; an existing channel stays whole on any failure.
    Raises SatenvError.
    """
    start = time.perf_counter()
    platform = options.platform or current_platform()
    if options.wheelhouse is not None and not options.wheelhouse.is_dir():
        raise InputError(f"{options.wheelhouse}: no such folder; expected the files of PyPI there", "see --wheelhouse")
    outputs = plan(root / "recipe", platform, options.variants)
    outcome = BuildOutcome(out, platform, "up-to-date")
    if platform in READERS:
        outcome.alternatives["decord"] = f"it has no wheel; {READERS[platform]} is built in its place"
        progress.say(f"decord for {platform}: {outcome.alternatives['decord']}")
    digests = {output: inputs_digest(root, output, platform) for output in outputs}
    channel = Channel(out)
    with channel.hold():
        have = {output: found for output in outputs if (found := channel.find(output, digests[output]))}
        channel.forget({f"{output.subdir}/{output.file_name}" for output in have})
        if all(output in have and not _to_test(have[output][1], options) for output in outputs):
            outcome.packages = [_line(output, "kept", have[output][1]) for output in outputs]
            channel.discard()
        else:
            for output, (path, made) in have.items():
                channel.keep(output, path, made.inputs, made.tests)  # later ones are tested with them
            run = _BuildRun(root, channel, platform, options, progress)
            with progress.task("Building", len(outputs), "packages") as task:
                for output in outputs:
                    task.note(output.name)
                    kept = have[output][1] if output in have else None
                    outcome.packages.append(run.one(output, digests[output], kept))
                    task.advance(1)
            channel.publish(platform)
            outcome.status = "built"
    outcome.seconds = round(time.perf_counter() - start, 1)
    return outcome


def _to_test(made: Made, options: BuildOptions) -> bool:
    """Return whether tests of the package are still to be run: none were, or not those that need PyTorch."""
    return options.test and (not made.tests or (options.all_tests and ALL_TESTS in made.tests))


def _line(output: Output, status: str, made: Made) -> Built:
    file = f"{output.subdir}/{output.file_name}"
    tests = made.tests or "not tested"
    return Built(output.name, output.version, output.build, file, status, tests, made.sha256, made.size)


class _BuildRun:
    """One run: looks for the channels only when something has to be built or tested."""

    def __init__(self, root: Path, channel: Channel, platform: str, options: BuildOptions, progress: Progress) -> None:
        self._root, self._channel, self._platform, self._options = root, channel, platform, options
        self._wheelhouse, self._progress = options.wheelhouse, progress

    @cached_property
    def _base(self) -> BuildChannels:
        return find_base(self._root, self._options.channels, self._progress)

    @cached_property
    def _whole_environment(self) -> str:
        return whole_environment(self._root, self._progress)

    def one(self, output: Output, inputs: str, kept: Made | None) -> Built:
        """Build and test one package, as far as that isn't done yet."""
        made = kept or self._channel.keep(output, self._build(output), inputs)
        if _to_test(made, self._options):
            path = self._channel.staging / output.subdir / output.file_name
            made = self._channel.keep(output, path, inputs, self._test(output, path))
        return _line(output, "kept" if kept else "built", made)

    def _build(self, output: Output) -> Path:
        work = self._channel.work()
        log = self._log(output, "build")
        environment = {"SATENV_WHEELHOUSE": str(self._wheelhouse.resolve())} if self._wheelhouse else {}
        answer = do(
            {
                "do": "build", "recipe": str(self._root / "recipe"), "platform": self._platform,
                "build_platform": current_platform(), "index": output.index, "output_dir": str(work),
                "channels": list(self._base.channels), "log": str(log),
            },
            {**environment, "RATTLER_CACHE_DIR": str(cache_dir())},
        )  # fmt: skip
        if "error" in answer:
            raise explain(output, answer["error"], log, self._wheelhouse, self._platform)
        target = work / output.file_name
        repack(Path(answer["package"]), target, timestamp())
        return target

    def _test(self, output: Output, path: Path) -> str:
        """Run the package's tests (its contents the build has checked); return what was run, or why not."""
        answer = do({"do": "describe", "package": str(path)})
        if "error" in answer:
            raise VerificationError(f"{path}: {answer['error']}", "delete that file and run again")
        count = answer["count"]
        if not count:
            return "contents checked"
        tests = f"{count} test{'s' if count > 1 else ''}"
        channels = [self._channel.index_staging(), *self._base.channels]
        reason = self._why_not(output, answer["names"], channels)
        if reason:
            return f"{tests} not run: {reason}"
        log = self._log(output, "test")
        answer = do(
            {"do": "test", "package": str(path), "channels": channels, "log": str(log)},
            # with bytecode, whatever the user's setting: a test starts Python several times
            {"RATTLER_CACHE_DIR": str(cache_dir()), "PYTHONDONTWRITEBYTECODE": ""},
        )
        if "error" in answer:
            last = "\n".join(f"  {line}" for line in log_lines(log)[-12:])
            raise VerificationError(
                f"{output.name} {output.version}: {answer['error']}\n{last}",
                f"the whole log: {log}; --no-test leaves the tests out",
            )
        return f"{tests} passed"

    def _why_not(self, output: Output, needs: Sequence[str], channels: list[str]) -> str:
        """Return why the package can't be installed here for its tests, or nothing. May add to `channels`."""
        if output.subdir not in ("noarch", current_platform()):
            return f"this machine is {current_platform()}"
        if not self._base.wheels:
            return ""
        never = sorted(set(needs) & set(load_names().absent))
        if never:
            return f"wheels don't provide {', '.join(never)}"
        if self._missing(output, channels) is None:
            return ""
        amount = "" if self._options.all_tests else whole_environment_to_fetch(self._root)
        if amount:
            return f"they need {amount}, of the package index; {ALL_TESTS} fetches them"
        channels.append(self._whole_environment)
        missing = self._missing(output, channels)
        if missing is None:
            return ""
        return f"wheels don't provide {', '.join(missing)}" if missing else "wheels don't satisfy its requirements"

    def _missing(self, output: Output, channels: list[str]) -> list[str] | None:
        """Return the names that none of the channels has and the package needs; None when it can be installed."""
        machine = next(v.virtual_packages for v in read_variants() if v.platform == self._platform)
        machine = {name: version for name, version in machine.items() if name != "__cuda"}
        try:
            solve(channels, [f"{output.name} =={output.version} {output.build}"], current_platform(), machine)
        except SolveError as error:
            return sorted(set(re.findall(r"─ (\S+) [^\n]*, for which no candidates were found", error.message)))
        return None

    def _log(self, output: Output, step: str) -> Path:
        folder = cache_dir() / "build-logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{output.name}-{output.build}-{self._platform}.{step}.log"
