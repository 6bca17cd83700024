"""`satenv deploy`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import (
    INSTALLING,
    LOCK,
    MAX_FILE_SIZE,
    OUTPUT,
    VERIFY,
    UserPath,
    examples,
    install_options,
    show,
)


@click.command(
    **examples("""
    satenv deploy /apps/cogvideo-sat                               a release from the committed lock, made current
    satenv deploy /apps/cogvideo-sat --bundle sat.pyz              from a bundle: no network
    satenv deploy /apps/cogvideo-sat --source wheels --no-activate       made and proven; users don't see it yet
    satenv deploy /apps/cogvideo-sat --image                       as one file, too: . "$(/apps/cogvideo-sat/stage)"
    satenv deploy /apps/cogvideo-sat --lock mine.conda-lock.yml --group sat-admins
    """)
)
@click.argument("root", type=UserPath())
@click.option("--bundle", type=UserPath(dir_okay=False), metavar="FILE", help="Make it out of this bundle.")
@click.option("--base", type=UserPath(dir_okay=False), help="The bundle that a delta applies on top of.")
@click.option("--signers", type=UserPath(dir_okay=False), help="Allowed signers of the bundle; unsigned is refused.")
@click.option("--identity", metavar="WHO", help="Who of them must have signed.")
@click.option(
    "--source", "sources", multiple=True, metavar="auto|channel|mirror=WHERE|wheels",
    help="As for satenv create. [default: auto]",
)  # fmt: skip
@LOCK
@MAX_FILE_SIZE
@click.option("--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
              help="auto: cuda where there is an NVIDIA driver or Slurm, else cpu.")  # fmt: skip
@click.option(
    "--python", type=UserPath(), help="With wheels: the Python to build on; it must be at this path everywhere."
)
@click.option("--group", help="Its members may deploy, roll back and prune, too (setgid folders, group-writable).")
@click.option("--image", is_flag=True, help="Make a one-file image of it, too, which ROOT/stage takes to the nodes.")
@click.option("--image-only", is_flag=True, help="The image alone, without the folder on the shared file system.")
@click.option("--at", type=UserPath(), metavar="FOLDER",
              help="With --image: the nodes' own folder that it is for. [default: /tmp/cogvideo-sat]")  # fmt: skip
@click.option("--no-activate", is_flag=True, help="Don't make it current: satenv releases ROOT activate NAME does.")
@VERIFY
@INSTALLING
@OUTPUT
def deploy(root, bundle, base, signers, identity, sources, group, image, image_only, at, no_activate, verify, no_doctor,
           as_json, quiet, **given) -> None:  # fmt: skip
    """Make a release of the environment for all users of a cluster, and make it current.

    ROOT is a folder that all nodes see. A release, ROOT/releases/DATE-LOCKHASH, is never changed after it was made.
    ROOT/current moves to it in one step, after the doctor's quick level has passed in it; running jobs keep theirs.
    """
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.cluster.deploy import Deployment
    from cogvideo_sat_env.cluster.deploy import deploy as make
    from cogvideo_sat_env.cluster.squashfs_image import AT
    from cogvideo_sat_env.create.create import CreateRequest

    if no_doctor:
        raise click.UsageError("a release is made current after the doctor has passed in it: leave --no-doctor out")
    if bundle and (sources or given["lock"]):
        raise click.UsageError("--bundle has its own lock and files: leave --source and --lock out")
    if not bundle and (base or signers or identity):
        raise click.UsageError("--base, --signers and --identity are about a --bundle")
    if identity and not signers:
        raise click.UsageError("--identity says who of --signers must have signed")
    image = image or image_only
    if at and not image:
        raise click.UsageError("--at is about an --image")
    options = install_options(given, full=verify == "full")
    request = CreateRequest(sources=sources or ("auto",), options=options, **given)
    wanted = Deployment(root, request, bundle, base, signers, identity, group, not no_activate,
                        (at or AT) if image else None, image_only)  # fmt: skip
    done = make(wanted, choose(json=as_json, quiet=quiet))
    show(done, as_json)
    sys.exit(done.exit_code)
