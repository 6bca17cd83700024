"""`satenv audit`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import JSON, PLATFORMS, UserPath, examples, show


@click.command(
    **examples("""
    satenv audit --osv PyPI-all.zip                    the project's lock, all its platforms
    satenv audit --osv advisories /envs/sat            an environment
    satenv audit --osv advisories conda-lock.yml --platform linux-64 --accept CVE-2025-0001 --json
    """)
)
@click.argument("what", metavar="[LOCK|PREFIX|BUNDLE]", default="")
@click.option("--osv", "advisories", required=True, type=UserPath(), metavar="FILE|DIR",
              help="Advisories in OSV's JSON format: a file, a folder, or OSV's zip of PyPI.")  # fmt: skip
@click.option("--accept", "accepted", multiple=True, metavar="ID",
              help="An advisory that doesn't matter here, by id or alias; may be repeated.")  # fmt: skip
@PLATFORMS
@JSON
def audit(what, advisories, accepted, platforms, as_json) -> None:
    """Compare the Python packages with the advisories that you have: known vulnerabilities, and what fixes them.

    Nothing is asked in the network. The exit code is 1 when something applies. The doctor's security.advisories is
    the same for one environment.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.audit import audit as compare

    found = compare(read(what or project_root() / "conda-lock.yml", platforms), advisories, accepted)
    show(found, as_json)
    sys.exit(found.exit_code)
