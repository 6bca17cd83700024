"""What the checkout's own files do wrong or name wrong: targets, options, shell scripts."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.doctor.sat.checkout import KNOWN_GOOD, Checkout
from cogvideo_sat_env.doctor.sat.finding import WARNING, Finding
from cogvideo_sat_env.doctor.sat.rules import Run

_ADDS = re.compile(r"""add_argument\(\s*["'](--[\w-]+)["']""")
_BASES = re.compile(r"--base((?:\s+[\w./{}$-]+\.ya?ml)+)")


def targets(run: Run) -> Iterator[Finding]:
    """Yield the `target:` classes that the checkout doesn't have; those of installed packages are not looked for."""
    for at, value in _targets(run.config.data, ()):
        module, _, name = value.rpartition(".")
        source = run.checkout.module(module)
        own = source is not None or (run.checkout.folder / module.split(".")[0]).is_dir()
        if not module or not own:
            continue
        if source is None or name not in _names(source):
            yield run.found("target", ".".join(map(str, at)), f"target: {value}: the checkout has no such class",
                            "correct the name, or take the YAML of this checkout's own commit",
                            error="ModuleNotFoundError" if source is None else "AttributeError")  # fmt: skip


def _targets(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "target" and isinstance(item, str):
                yield (*at, key), item
            else:
                yield from _targets(item, (*at, key))
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item, at)


def _names(source: Path) -> set[str]:
    """Return the names that a module binds at its top."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8", errors="replace"))
    except SyntaxError:
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def options(run: Run, sat: Path | None) -> Iterator[Finding]:
    """Yield keys of `args` that no parser knows: upstream drops them without a word.

    `sat` is the folder of the installed SwissArmyTransformer; without it nothing is reported.
    """
    if sat is None:
        return
    try:
        texts = [(sat / "arguments.py").read_text(encoding="utf-8"), run.checkout.source("arguments.py")]
    except OSError:
        return
    known = {name[2:].replace("-", "_") for text in texts for name in _ADDS.findall(text)}
    known |= {"deepspeed", "deepspeed_config", "deepscale", "deepscale_config", "local_rank"}
    args = run.config.get("args")
    for name in args if isinstance(args, dict) else ():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"is {near[0]} meant?" if near else "remove the line"
            yield run.found("option", f"args.{name}", f"{name}: no option of upstream or SAT; it is dropped silently",
                            hint, status=WARNING)  # fmt: skip


def scripts(checkout: Checkout) -> Iterator[Finding]:
    """Yield what the shell scripts get wrong: YAMLs that don't exist, and an exit code that hides a failure."""
    for script in sorted(checkout.folder.glob("*.sh")):
        text = checkout.source(script.name)
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            if line.lstrip().startswith("#"):
                continue
            for match in _BASES.finditer(line):
                gone = [name for name in match[1].split() if "$" not in name and not (checkout.folder / name).is_file()]
                if gone:
                    yield Finding("sat.script", WARNING, f"{script.name}:{number}",
                                  f"names {', '.join(gone)}, which this checkout doesn't have",
                                  f"{satenv('sat fix --code', checkout.folder)}, or put your own YAMLs there",
                                  error="FileNotFoundError")  # fmt: skip
        runs = [number for number, line in enumerate(lines, 1) if line.strip().startswith("eval ")]
        strict = re.search(r"^\s*set\s+-\w*e", text, re.MULTILINE)
        if runs and not strict and "exit" not in text:
            yield Finding("sat.script", WARNING, f"{script.name}:{runs[-1]}",
                          "exits 0 though training failed: a batch job then looks successful",
                          f"{satenv('sat fix --code', checkout.folder)}, or call train_video.py yourself")  # fmt: skip


def state(checkout: Checkout) -> tuple[str, str, list[str]]:
    """Return status, finding and the changed files: is it the commit that is known to train?"""
    if checkout.commit is None:
        return WARNING, f"{checkout.folder}: no git repository, so its commit is unknown", []
    changed = list(checkout.modified)
    note = f"; {len(changed)} files changed by hand: {', '.join(changed[:4])}" if changed else ""
    if checkout.commit == KNOWN_GOOD:
        return "passed", f"commit {KNOWN_GOOD[:12]}, the one that is known to train{note}", changed
    short = checkout.commit[:12]
    if checkout.newer is None:
        return WARNING, f"commit {short}; not compared with {KNOWN_GOOD[:12]}, which this clone lacks{note}", changed
    if not checkout.newer:
        return "passed", f"commit {short}; sat/ is that of {KNOWN_GOOD[:12]}, which is known to train{note}", changed
    files = ", ".join(checkout.newer[:4])
    return WARNING, f"commit {short} differs from {KNOWN_GOOD[:12]}, which is known to train, in {files}{note}", changed
