"""`satenv sbom`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import PLATFORMS, UserPath, examples


@click.command(
    **examples("""
    satenv sbom                                        the project's lock, all its platforms, in CycloneDX
    satenv sbom conda-lock.yml --platform linux-64 --format spdx -o sat.spdx.json
    satenv sbom /envs/sat -o sat.cdx.json              an environment
    satenv sbom sat.pyz                                a bundle
    """)
)
@click.argument("what", metavar="[LOCK|PREFIX|BUNDLE]", default="")
@click.option("--format", "form", type=click.Choice(["cyclonedx", "spdx"]), default="cyclonedx", show_default=True,
              help="CycloneDX 1.6 or SPDX 2.3, both as JSON.")  # fmt: skip
@PLATFORMS
@click.option("-o", "--out", type=UserPath(dir_okay=False), metavar="FILE", help="Write it there.")
def sbom(what, form, platforms, out) -> None:
    """List all packages with purls, SHA-256s, licences and what needs what, for the tools that read such lists.

    The same packages give the same bytes. A size that isn't known is "unknown".
    """
    from cogvideo_sat_env.base.files import write_atomically
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.sbom import render

    found = read(what or project_root() / "conda-lock.yml", platforms)
    content = render(found, form)
    if out is None:
        click.echo(content, nl=False)
        return
    write_atomically(out, content)
    click.echo(f"wrote {out}: {sum(len(one.packages) for one in found)} packages")
