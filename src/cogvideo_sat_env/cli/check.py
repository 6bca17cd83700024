"""`satenv check`."""

from __future__ import annotations

import json
import sys

import click

from cogvideo_sat_env.cli.options import JSON, examples, require_maintainer_tools


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
    if as_json:
        click.echo(json.dumps({"ok": not findings, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.file}: {finding.message}\n    remedy: {finding.remedy}")
        click.echo(
            f"{len(findings)} disagreement{'s' if len(findings) != 1 else ''}"
            if findings
            else "spec, floors, ledger, locks, rendered files and recipe agree"
        )
    sys.exit(1 if findings else 0)
