"""What the commands' declarations share."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.paths import user_path
from cogvideo_sat_env.base.printable import printable

if TYPE_CHECKING:
    from cogvideo_sat_env.create.create import CreateRequest
    from cogvideo_sat_env.install.outcome import InstallOutcome

T = TypeVar("T")


class UserPath(click.Path):
    """A path as users write it: `~` is a home directory although the shell left it, and nothing isn't the cwd."""

    def __init__(self, **checks: bool) -> None:
        super().__init__(path_type=Path, **checks)  # type: ignore[type-var]

    def convert(self, value, param, ctx):
        """Return the path; a usage error for one that can't be meant."""
        try:
            return super().convert(user_path(os.fspath(value)), param, ctx)
        except InputError as error:
            self.fail(f"{error.message} ({error.remedy})", param, ctx)


class _Words(click.types.StringParamType):
    """A text that isn't empty."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("expected a value, found an empty one", param, ctx)
        return super().convert(value, param, ctx)


def in_bytes(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Return what an option such as `20M` means; the callback of that option. Raises InputError."""
    from cogvideo_sat_env.fetch.limit import parse_bytes

    return parse_bytes(value, parameter.opts[0]) if value else None


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the decorator that declares all of `options`, in this order."""

    def declare(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


def _with_progress(command: Any) -> Any:
    """Give `command` the progress that its --json and --quiet mean."""

    @functools.wraps(command)
    def run(quiet: bool, as_json: bool, **given: Any) -> Any:
        from cogvideo_sat_env.base.progress import choose

        return command(as_json=as_json, progress=choose(json=as_json, quiet=quiet), **given)

    return run


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
OUTPUT = together(JSON, click.option("-q", "--quiet", is_flag=True, help="No progress."), _with_progress)
ENVIRONMENT = together(
    click.option("-p", "--prefix", type=UserPath(), help="Folder of the environment."),
    click.option("-n", "--name", help="Name of the environment [default: that of environment.yml]."),
)
TRANSFERS = together(
    click.option("--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Transfers at once."),
    click.option("--limit-rate", metavar="BYTES", callback=in_bytes,
                 help="Bytes per second for all transfers together, e.g. 20M."),
)  # fmt: skip
VERIFY = click.option(
    "--verify", type=click.Choice(["changed", "full"]), default="changed", show_default=True,
    help="Hash again what of the package cache has changed since it was proven, or all of it.",
)  # fmt: skip
BREAK_LOCK = click.option(
    "--break-lock", is_flag=True, help="Take over the lock of a process on another host that has been silent for long."
)
WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for another run that is at work on the same prefix. [default: until it ends]",
)  # fmt: skip
LOCK = click.option(
    "--lock", type=UserPath(dir_okay=False), metavar="FILE",
    help="A conda-lock file in place of the project's own, e.g. one by satenv lock --with-channel.",
)  # fmt: skip

VARIANT = click.option(
    "--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
    help="auto: cuda where there is an NVIDIA driver or Slurm, else cpu.",
)  # fmt: skip
IN_BUNDLE = together(
    click.option("--base", type=UserPath(), help="The bundle that a delta applies on top of."),
    click.option("--signers", type=UserPath(), help="Allowed signers (man ssh-keygen); unsigned is refused then."),
    click.option("--identity", type=_Words(), metavar="WHO", help="Who of them must have signed."),
)
BASES = click.option(
    "--base", "bases", multiple=True, type=UserPath(), metavar="CONFIG",
    help="A YAML of the run (repeat, in upstream's order).",
)  # fmt: skip
PLATFORMS = click.option(
    "--platform", "platforms", multiple=True, metavar="SUBDIR", help="Only this one, of a lock; may be repeated."
)
ONLY_VARIANT = click.option(
    "--variant", metavar="ID", help="Only this one: cuda, cpu, or an id such as linux-64-cpu."
)  # fmt: skip


def source(default: str) -> Callable[[Any], Any]:
    """Return the option --source; `default` says what none means."""
    return click.option(
        "--source", "sources", multiple=True, metavar="auto|channel|mirror=WHERE|wheels", show_default=default,
        help="Where the bytes come from. auto: the lock's channels when they answer, else wheels. Mirrors and channel "
        "may be repeated: each file comes from the first that has it right.",
    )  # fmt: skip


INSTALLING = together(
    click.option(
        "--allow-link-scripts", multiple=True, metavar="PACKAGE|all",
        help="Run the post-link scripts of a package; none is run otherwise, all are listed. May be repeated.",
    ),
    BREAK_LOCK,
    WAIT,
    click.option("--no-doctor", is_flag=True, help="Don't run the doctor at the end."),
)  # fmt: skip
SELECTION = together(
    click.option("--platform", "platforms", multiple=True, metavar="SUBDIR", help="A conda subdir; may be repeated."),
    click.option("--all", "everything", is_flag=True, help="Every platform and variant that there is a lock for."),
    click.option(
        "--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
        help="auto: what suits this machine; for a platform that is named, cuda where there is one.",
    ),
    LOCK,
)  # fmt: skip


def _allow(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        from cogvideo_sat_env.fetch.limit import parse_bytes
        from cogvideo_sat_env.fetch.wanted import MAX_FILE_SIZE

        parse_bytes(value, "--max-file-size")
        os.environ[MAX_FILE_SIZE] = value  # for processes that fetch for this one, too


MAX_FILE_SIZE = click.option(
    "--max-file-size", metavar="BYTES", expose_value=False, callback=_allow,
    help="The most that is fetched of a file whose size the lock doesn't say, e.g. 10G. [default: 4G]",
)  # fmt: skip


def require_maintainer_tools() -> None:
    """Raise MissingToolError without conda-lock: from a bundle, or after `pip install` without [maintainer]."""
    if find_spec("conda_lock") is None:
        raise MissingToolError(
            "conda-lock is not among the tools of this program; satenv lock and satenv check need it",
            "run scripts/satenv of a checkout, which brings it, or: pip install 'conda-lock>=4,<5' tomlkit",
        )


def show(found: Any, as_json: bool) -> None:
    """Print a result as one JSON object, or for people."""
    say(found.to_json() if as_json else "", "" if as_json else found.to_text(), as_json)


def say(data: Any, text: str, as_json: bool) -> None:
    """Print `data` as JSON, or `text` for people, which may end its last line itself."""
    out = json.dumps(data, indent=2) if as_json else printable(text)
    click.echo(out, nl=out[-1:] not in ("", "\n"))


def show_outcome(outcome: InstallOutcome, as_json: bool) -> None:
    """Print what was done to an environment, and end with its exit code."""
    from cogvideo_sat_env.create.outcome_text import outcome_text

    say(outcome.to_json(), outcome_text(outcome), as_json)
    sys.exit(outcome.exit_code)


def taken(kind: Callable[..., T], given: dict[str, Any], **more: Any) -> T:
    """Take what the dataclass `kind` has fields for out of a command's options; return one of it, with `more`, too."""
    names = [field.name for field in fields(cast(Any, kind)) if field.name in given]
    return kind(**{name: given.pop(name) for name in names}, **more)


def create_request(given: dict[str, Any], sources: tuple[str, ...] = ("auto",), **more: bool) -> CreateRequest:
    """Take what is to be made, and how, out of a command's options; `sources` where none is named."""
    from cogvideo_sat_env.create.create import CreateRequest
    from cogvideo_sat_env.install.job import Options

    options = taken(Options, given, full=given.pop("verify", "") == "full", **more)
    doctor = not given.pop("no_doctor", False)
    given["sources"] = given.get("sources") or sources
    return taken(CreateRequest, given, options=options, doctor=doctor)


def require_signers(identity: str | None, signers: Path | None) -> None:
    """Raise a usage error for --identity without --signers."""
    if identity and not signers:
        raise click.UsageError("--identity says who of --signers must have signed")


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line, with the program's name as the user started it."""
    lines = (re.sub(r"^satenv ", f"{program_name()} ", line.strip()) for line in text.strip().splitlines())
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)}
