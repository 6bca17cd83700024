"""`satenv manifest`."""

from __future__ import annotations

import json
import sys

import click

from cogvideo_sat_env.cli.options import OUTPUT, VERIFY, UserPath, examples, say, show


@click.command(
    **examples("""
    satenv manifest /envs/sat                         path, kind, mode, size and SHA-256 of everything in it
    satenv manifest /envs/sat -o sat.manifest.bz2     into a file
    satenv manifest /scratch/sat --check sat.manifest.bz2     is it the same environment?
    satenv manifest /envs/sat --check locks/manifest-linux-64-py311.txt.bz2 --verify full
    """)
)
@click.argument("prefix", type=UserPath(file_okay=False))
@click.option("--check", "wanted", type=UserPath(dir_okay=False), metavar="FILE",
              help="Compare with this manifest; exit code 1 and the paths where the environment differs.")  # fmt: skip
@click.option("-o", "--out", type=UserPath(dir_okay=False), metavar="FILE",
              help="Write it there; a name with .bz2 is packed.")  # fmt: skip
@VERIFY
@OUTPUT
def manifest(prefix, wanted, out, verify, as_json, progress) -> None:
    """Write down every file of the environment at PREFIX, so that two creates of one lock give the same text.

    The prefix in files, what records say of this machine, and how bytecode was written are normalised (docs/audit.md).
    """
    from cogvideo_sat_env.report import prefix_manifest

    if wanted and out:
        raise click.UsageError("--check compares, --out writes: give one of them")
    expected = prefix_manifest.read(wanted) if wanted else None
    found = prefix_manifest.make(prefix, full=verify == "full", progress=progress)
    if expected is not None:
        difference = prefix_manifest.compare(expected, found)
        show(difference, as_json)
        sys.exit(0 if difference.same else 1)
    if out is None:
        click.echo(json.dumps(found.to_json()) if as_json else found.to_text(), nl=as_json)
        return
    size = prefix_manifest.write(found, out)
    facts = {"manifest": str(out), "paths": len(found.entries), "bytes": size, **found.facts}
    say(facts, f"wrote {out}: {len(found.entries):,} paths", as_json)
