"""`satenv check`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import JSON, examples, require_maintainer_tools, say


@click.command(
    **examples("""
    satenv check              every disagreement, with the command that corrects it
    satenv check --json       for scripts
    """)
)
@JSON
def check(as_json) -> None:
    """Check offline that spec, floors, ledger, locks, rendered files and recipe agree, and that the locks are sound."""
    from dataclasses import asdict

    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.check.agreement import check_project

    require_maintainer_tools()
    findings = check_project(project_root())
    lines = [f"{finding.file}: {finding.message}\n    remedy: {finding.remedy}\n" for finding in findings]
    lines.append(f"{len(findings)} disagreement{'s' if len(findings) != 1 else ''}")
    text = "".join(lines) if findings else "spec, floors, ledger, locks, rendered files and recipe agree"
    say({"ok": not findings, "findings": [asdict(finding) for finding in findings]}, text, as_json)
    sys.exit(1 if findings else 0)
