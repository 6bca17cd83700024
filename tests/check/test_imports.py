"""Imports run downwards only: a folder knows what is below it, never what is above."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / "cogvideo_sat_env"
PACKAGE = SOURCE.name

# from the ground up; folders of one row know nothing of each other
FLOORS: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            {"base"},
            {"spec", "fetch"},
            {"lock", "install", "doctor"},
            {"source"},
            {"package"},
            {"create", "check"},
            {"report"},
            {"bundle"},
            {"cluster"},
            {"cli"},
        ),
    )
)
ROOM = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
FACE = {"__init__.py", "__main__.py"}  # of the package itself: the version, and `python -m`


def modules() -> list[Path]:
    """Return every file of the program, as paths below the package."""
    return sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def imports(path: Path, source: Path = SOURCE) -> Iterator[tuple[int, str]]:
    """Yield line and module of each import of this program in a file, those inside functions among them."""
    here = [PACKAGE, *path.with_suffix("").parts]
    for node in ast.walk(ast.parse((source / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                yield node.lineno, resolve(name, source)


def resolve(name: str, source: Path) -> str:
    """Return the module that a dotted name lies in: the longest part of it that is a file or a folder."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        file = source.joinpath(*parts[1:end])
        if file.with_suffix(".py").is_file() or (file / "__init__.py").is_file():
            return ".".join(parts[:end])
    raise AssertionError(f"{name}: no such module")


def arrows(source: Path = SOURCE) -> list[tuple[str, int, str, str]]:
    """Return (file, line, its folder, folder that it imports) for each import between folders of the top."""
    found = []
    for path in sorted(file.relative_to(source) for file in source.rglob("*.py")):
        if len(path.parts) == 1:
            continue
        for line, module in imports(path, source):
            target = module.split(".")[1:2]
            if target and target[0] != path.parts[0]:
                found.append((str(path), line, path.parts[0], target[0]))
    return found


def wrong(found: list[tuple[str, int, str, str]]) -> list[str]:
    """Return the arrows that don't run downwards."""
    return [f"{file}:{line}: {a} -> {b}" for file, line, a, b in found if ROOM.get(b, 99) >= ROOM[a]]


def test_nothing_but_folders_lies_at_the_top() -> None:
    """A reader finds a thing by the name of its folder."""
    top = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert top == {*ROOM, *FACE, "data"}


def test_imports_run_downwards() -> None:
    """Lazy imports count: they hide a circle, they don't undo it."""
    assert wrong(arrows()) == []


def test_an_import_that_runs_back_is_found(tmp_path: Path) -> None:
    """This test can fail: an arrow upwards, inside a function, is seen."""
    (tmp_path / "base").mkdir()
    (tmp_path / "cli").mkdir()
    for folder in ("", "base/", "cli/"):
        (tmp_path / f"{folder}__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "base" / "low.py").write_text(f"def f():\n    from {PACKAGE}.cli import main\n", encoding="utf-8")
    (tmp_path / "cli" / "main.py").write_text(f"from {PACKAGE}.base import low\n", encoding="utf-8")
    assert wrong(arrows(tmp_path)) == ["base/low.py:2: base -> cli"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Two modules that need each other are one, or have a third in them. `TYPE_CHECKING` counts, too."""
    graph: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join([PACKAGE, *path.with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = {module for _, module in imports(path) if module != name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [" -> ".join([*trail[trail.index(name) :], name])]
        if name in done:
            return []
        found = [circle for target in sorted(graph[name]) for circle in visit(target, (*trail, name))]
        done.add(name)
        return found

    assert [circle for name in sorted(graph) for circle in visit(name, ())] == []


def test_a_file_name_and_a_class_name_mean_one_thing() -> None:
    """A command's file in cli/ may have the name of what implements it."""
    files = [path for path in modules() if path.name not in FACE and path.parts[0] != "cli"]
    assert [name for name, count in Counter(path.name for path in files).items() if count > 1] == []
    classes = Counter(
        node.name
        for path in modules()
        for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []
