"""`satenv bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import (
    UserPath,
    create_request,
    examples,
    in_bytes,
    require_signers,
    say,
    show,
    show_outcome,
    taken,
)

_FILE = UserPath()


@click.group(
    **examples("""
    satenv bundle pack sat.pyz                        everything for this machine's variant, in one file
    satenv bundle verify sat.pyz                      every byte
    python3 sat.pyz install -p /scratch/envs/sat      on the other side: no network, no root, only Python
    """)
)
def bundle() -> None:
    """Carry the environment to a site without internet: pack, verify, list, install, diff."""


@bundle.command(
    **examples("""
    satenv bundle pack sat.pyz --mirror /data/mirror                 from a mirror
    satenv bundle pack sat.pyz --platform linux-aarch64              for another platform
    satenv bundle pack sat.pyz --source wheels                       where no conda channel can be reached
    satenv bundle pack new.pyz --since old.pyz                       only what old.pyz lacks
    satenv bundle pack sat.pyz --volume-size 4G --sign ~/.ssh/id_ed25519
    """)
)
@click.argument("out", type=_FILE)
@click.option("--mirror", "folder", type=_FILE, help="The mirror to pack, completed if need be [in the cache].")
@click.option(
    "--source", type=click.Choice(["lock", "wheels"]), default="lock", show_default=True,
    help="wheels: the channel that `create --source wheels` makes; the target then needs the same Python.",
)  # fmt: skip
@options.SELECTION
@options.MAX_FILE_SIZE
@click.option("--from", "mirrors", multiple=True, metavar="WHERE", help="What completes the mirror, as in mirror.")
@click.option("--python", "pythons", multiple=True, metavar="3.X",
              help="A Python of the target that the tool shall run with; may be repeated [3.10 to 3.13]. "
              "With wheels: the Python to build on.")  # fmt: skip
@click.option("--since", type=_FILE, help="Leave out what this bundle has: a delta.")
@click.option("--volume-size", metavar="BYTES", callback=in_bytes,
              help="Split the data into volumes of at most so much, e.g. 4G.")  # fmt: skip
@click.option("--sign", "key", type=_FILE, help="Sign with this OpenSSH private key.")
@options.TRANSFERS
@options.OUTPUT
def pack(out, folder, source, mirrors, pythons, as_json, progress, **selection) -> None:
    """Write a bundle: channels, wheelhouse, locks, the tool with its own wheels, manifest, SBOM.

    The same input gives the same bytes. Every file's SHA-256 is proven while it is packed.
    """
    from cogvideo_sat_env.base.paths import cache_dir, project_root
    from cogvideo_sat_env.bundle import content as contents
    from cogvideo_sat_env.bundle.pack import Shape
    from cogvideo_sat_env.bundle.pack import pack as write
    from cogvideo_sat_env.fetch.wanted import Policy
    from cogvideo_sat_env.source.mirror.selection import read_parts

    shape, patience = taken(Shape, selection), taken(Policy, selection)
    root, cache = project_root(), cache_dir()
    if source == "wheels":
        if folder or mirrors or any(value for value in selection.values() if value != "auto"):
            raise click.UsageError("--source wheels packs for this machine: leave the options of mirrors out")
        content = contents.from_wheels(root, cache, Path(pythons[0]) if pythons else None, progress)
    else:
        parts = read_parts(root, **selection)
        lock = selection["lock"]
        content = contents.from_mirror(parts, folder or cache / "mirror", mirrors, pythons, lock, patience, progress)
    packed = write(out, content, shape, root, cache, patience, progress)
    show(packed, as_json)


@bundle.command(
    **examples("""
    satenv bundle verify sat.pyz
    satenv bundle verify sat.pyz --signers allowed_signers --identity me@example.org
    satenv bundle verify new.pyz --base old.pyz
    """)
)
@click.argument("file", type=_FILE)
@options.IN_BUNDLE
@options.OUTPUT
def verify(file, base, signers, identity, as_json, progress) -> None:
    """Prove every byte of a bundle against its manifest, and its signature where --signers is given."""
    from cogvideo_sat_env.bundle.container import open_bundle
    from cogvideo_sat_env.bundle.describe import prove

    require_signers(identity, signers)
    opened = open_bundle(file, base)
    total = sum(member.size for member in opened.members.values())
    with progress.task(f"Proving {len(opened.members)} files", total, "bytes") as task:
        found, text = prove(opened, signers, identity, task.advance)
    say(found, text, as_json)


@bundle.command("list", **examples("satenv bundle list sat.pyz     what is in it, and how much space it needs"))
@click.argument("file", type=_FILE)
@options.JSON
def list_members(file, as_json) -> None:
    """Say what is in a bundle and what it needs on the target."""
    from cogvideo_sat_env.bundle.container import open_bundle
    from cogvideo_sat_env.bundle.describe import describe

    found, text = describe(open_bundle(file))
    say(found, text, as_json)


@bundle.command(**examples("satenv bundle diff old.pyz new.pyz"))
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@options.JSON
def diff(old, new, as_json) -> None:
    """Say what NEW has and OLD has not, and the other way round."""
    from cogvideo_sat_env.bundle.container import open_bundle
    from cogvideo_sat_env.bundle.describe import compare

    found, text = compare(open_bundle(old), open_bundle(new))
    say(found, text, as_json)


@bundle.command(
    **examples("""
    satenv bundle install sat.pyz -p /scratch/envs/sat
    satenv bundle install new.pyz --base old.pyz -p /scratch/envs/sat --replace
    """)
)
@click.argument("file", type=_FILE)
@options.ENVIRONMENT
@click.option("--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
              help="Where the bundle has several for this machine.")  # fmt: skip
@click.option("--python", type=_FILE, help="With wheels: the Python to build on [the running one].")
@options.IN_BUNDLE
@click.option("--replace", is_flag=True, help="Replace an environment of ours that was made from something else.")
@click.option("--older", is_flag=True, help="Also over an environment that was made from a newer bundle.")
@click.option("--repair", is_flag=True, help="Compare every file of the environment; put right what differs.")
@options.INSTALLING
@options.OUTPUT
def install(file, base, signers, identity, older, as_json, progress, **given) -> None:
    """Make the environment out of a bundle: no network, no root. Every byte is proven before the prefix is touched."""
    from cogvideo_sat_env.bundle.install import install_bundle

    require_signers(identity, signers)
    request = create_request(given)
    outcome = install_bundle(file, request, progress, base=base, signers=signers, identity=identity, older=older)
    show_outcome(outcome, as_json)
