"""Whatever tells a user to type `satenv …`, a remedy, a page or a help text, names what the command line takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.doctor.argparse_cli import COMMANDS
from cogvideo_sat_env.doctor.catalogue import CHECKS

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / "cogvideo_sat_env"
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
CHECK_NAMES = {check.id for check in CHECKS} | {check.subject for check in CHECKS}
COMMAND = re.compile(r"(?<![\w.{-])(?:(?:\.?/?scripts/|sat\.pyz )?satenv|\{satenv\})(?= \S)")
# help texts, where the name is filled in; a page, a title, and the usage of a bundle, whose command `satenv` is
OWN_TEXTS = {"errors_md.py", "junit.py", "start.py"}
# "satenv" as the name of the program, in a sentence: what may follow
WORDS = {"has", "looks", "does", "gives", "and", "would", "for", "itself", "as", "of"}


def texts_of_code(path: Path, docstrings: bool = True) -> Iterator[str]:
    """Every text in a module, f-strings with PLACEHOLDER for their values; names of texts in them are resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }  # fmt: skip

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(part, node.values))
        elif called(node):
            yield called(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not docstrings:
            return
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    def called(node: ast.AST) -> str:
        """satenv("create -p", prefix) -> "{satenv} create -p PLACEHOLDER"; "" for anything else."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "satenv"):
            return ""
        command, *values = node.args
        if not isinstance(command, ast.Constant):
            return (
                "" if path.name == "command_name.py" else f"{{satenv}} {path.name}:{node.lineno}"
            )  # reported as wrong
        return " ".join(["{satenv}", command.value, *["PLACEHOLDER"] * len(values)])

    def part(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        assert isinstance(node, ast.FormattedValue)
        if called(node.value):
            return called(node.value)
        return names.get(node.value.id, "PLACEHOLDER") if isinstance(node.value, ast.Name) else "PLACEHOLDER"

    return visit(tree)


def texts_of_data(path: Path) -> Iterator[str]:
    def visit(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from visit(item)

    return visit(yaml.safe_load(path.read_text(encoding="utf-8")))


def texts_of_page(path: Path) -> Iterator[str]:
    """The lines of its blocks of code; its pieces of code, which may run over a line's end; then its sentences."""
    for index, part in enumerate(re.split(r"^```.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)):
        if index % 2:
            yield from part.replace("\\\n", " ").splitlines()
            continue
        for piece in re.findall(r"`([^`]+)`", part):
            yield " ".join(piece.split())
        yield from re.sub(r"`[^`]+`", "CODE", part).splitlines()


def said() -> Iterator[tuple[str, str]]:
    """Everything that the project tells its users: where, and the text."""
    for paths, texts in (
        (sorted(SOURCE.rglob("*.py")), texts_of_code),
        (sorted((SOURCE / "data").glob("*.yml")), texts_of_data),
        (PAGES, texts_of_page),
    ):
        for path in paths:
            for text in texts(path):
                yield str(path.relative_to(PROJECT)), text


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `satenv` of a text, up to where the command must have ended."""
    for line in text.splitlines():
        ends = [*(match.start() for match in COMMAND.finditer(line)), len(line)]
        for match, end in zip(COMMAND.finditer(line), ends[1:], strict=True):
            words = re.split(r"[`;(#]|  |\s\|\s|: ", line[match.end() : end].lstrip(" "))[0].split()
            if words:
                yield words


def problem(words: list[str]) -> str | None:
    """What the command line would not take, or None. What follows the command in a sentence is left out."""
    command: click.Command = cli
    path = "satenv"
    words = [word.strip("\"'").rstrip(".,") if not word.startswith("-") else word.rstrip(".,;:\"')") for word in words]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            spoken = name in WORDS or not re.fullmatch(r"[a-z][a-z-]*", name)  # a version, a placeholder
            return None if path == "satenv" and spoken else f"{path} has no command {name!r}"
        command, path = command.commands[name], f"{path} {name}"
    context = click.Context(
        command,
        info_name=path,
        **command.context_settings,
        parent=cli.make_context("satenv", [], resilient_parsing=True),
    )
    options = {flag: o for o in command.get_params(context) if isinstance(o, click.Option)
               for flag in (*o.opts, *o.secondary_opts)}  # fmt: skip
    places = sum(max(a.nargs, 1) for a in command.params if isinstance(a, click.Argument))
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            places -= 1
            if places < 0:
                break  # the sentence goes on
            continue
        flag, given, value = word.partition("=")
        option = options.get(flag)
        if option is None and context.ignore_unknown_options:
            return None  # what follows is another program's, e.g. upstream's training
        if option is None:
            return f"{path} has no option {flag}"
        if option.is_flag:
            continue
        if not given and not words:
            break  # only the option is spoken of
        value = value if given else words.pop(0)
        if value.startswith("-"):
            return f"{path} {flag} wants a value, found {value}"
        if value.isupper():  # stands for something
            continue
        if isinstance(option.type, click.Choice) and value not in option.type.choices:
            return f"{path} {flag}: {value!r} is none of {', '.join(option.type.choices)}"
        if path == "satenv doctor" and flag in ("--only", "--skip") and value not in CHECK_NAMES:
            return f"{path} {flag}: no check is called {value!r}"
    return None


def test_every_command_that_a_user_is_told_exists_with_its_options():
    found = [(where, words) for where, text in said() for words in commands(text)]
    assert len(found) > 150 and len({where for where, _ in found}) > 40, "the texts are not found any more"
    wrong = [f"{where}: {' '.join(words)[:80]}: {why}" for where, words in found if (why := problem(words))]
    assert not wrong, "\n".join(wrong)


def test_what_is_typed_is_named_as_the_user_started_it():
    """By base/command_name.py: a bare `satenv` may not be on PATH. Files that the program writes name the script."""
    bare = [
        f"{path.relative_to(PROJECT)}: {line[:80]}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "cli" and path.name not in OWN_TEXTS
        for text in texts_of_code(path, docstrings=False)
        for line in text.splitlines()
        if not line.startswith("#")
        and "{satenv}" not in line
        and any(word[0] in cli.commands for word in commands(line))
    ]
    assert not bare, "\n".join(bare)


def test_every_command_of_the_metapackages_program_exists():
    pieces = [piece for path in PAGES for piece in texts_of_page(path) if piece.startswith("cogvideo-sat-env ")]
    assert len(pieces) > 3
    assert {piece.split()[1] for piece in pieces} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("unset X; satenv create -p 'PLACEHOLDER' --repair (keeps what conda added)", None),
        ("satenv plan --model 5b --method lora --gpus 8 says what fits; fewer frames", None),
        ("satenv looks for it", None),
        ("`scripts/satenv bundle pack sat.pyz --volume-size 4G`", None),
        ("make it with: scripts/satenv recreate", "has no command 'recreate'"),
        ("then satenv create --mend", "has no option --mend"),
        ("satenv bundle unpack x", "satenv bundle has no command 'unpack'"),
        ("satenv doctor --level deep", "'deep' is none of quick, full, gpu"),
        ("satenv doctor --only identity.file names it", "no check is called 'identity.file'"),
        ("satenv create -p --repair", "-p wants a value, found --repair"),
    ],
)
def test_what_does_not_exist_is_noticed(text, wrong):
    (words,) = commands(text)
    assert (problem(words) is None) if wrong is None else (wrong in (problem(words) or ""))
