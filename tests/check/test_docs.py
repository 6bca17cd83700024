"""The pages lead somewhere, the files of the project's hosting are sound, and the walks of CONTRIBUTING exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import EXIT_CODES

PROJECT = Path(__file__).parents[2]
PAGES = [*PROJECT.glob("*.md"), *sorted((PROJECT / "docs").glob("*.md"))]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
TOOLS = Path(sys.executable).parent


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_of_the_project(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(PROJECT) and target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in links(PROJECT / "docs" / "index.md")}
    assert {page.name for page in (PROJECT / "docs").glob("*.md")} - {"index.md"} <= listed


def test_the_readme_is_short_and_says_what_the_machine_needs_first() -> None:
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 95
    assert any("Python 3.10" in line and "venv" in line for line in lines[:12])
    assert not [page.name for page in PAGES if "../shared" in page.read_text(encoding="utf-8")]


def test_the_walks_of_contributing_exist() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|scripts)/[^`\s]+)`", text)
    assert len(named) > 6 and [name for name in named if not (PROJECT / name).exists()] == []


def test_the_table_of_exit_codes_is_the_programs() -> None:
    text = (PROJECT / "docs" / "create.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)] == list(EXIT_CODES)


def test_the_citation_has_the_version() -> None:
    assert yaml.safe_load((PROJECT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## {__version__}" in (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8") or "Unreleased" in (
        PROJECT / "CHANGELOG.md"
    ).read_text(encoding="utf-8")


def test_the_workflows_and_forms_are_what_their_schemas_say() -> None:
    forms = sorted((PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    checks = [("vendor.github-workflows", WORKFLOWS), ("vendor.github-issue-forms", forms)]
    for schema, files in checks:
        files = [path for path in files if path.name != "config.yml"]
        assert files
        run = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr


def test_the_workflows_run_nothing_unsafe_and_call_the_test_command() -> None:
    run = subprocess.run(
        [TOOLS / "zizmor", "--offline", "--no-progress", "--color=never", *WORKFLOWS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for path in WORKFLOWS:
        assert "./scripts/test" in path.read_text()


def test_the_shell_scripts_are_clean(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    scripts = [PROJECT / "scripts" / name for name in ("satenv", "test", "pin")] + [PROJECT / ".ci" / "run"]
    for path in WORKFLOWS:  # and the pieces of shell in the workflows
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for number, step in enumerate(job["steps"]):
                if "run" in step:
                    scripts.append(tmp_path / f"{path.stem}-{number}-{len(scripts)}.sh")
                    scripts[-1].write_text("#!/bin/bash\n" + re.sub(r"\$\{\{.*?\}\}", "x", step["run"]))
    run = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
