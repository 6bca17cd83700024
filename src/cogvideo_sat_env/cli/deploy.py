"""`satenv deploy`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import UserPath, create_request, examples, require_signers, show, source, taken


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
@options.IN_BUNDLE
@source("auto")
@options.LOCK
@options.MAX_FILE_SIZE
@options.VARIANT
@click.option(
    "--python", type=UserPath(), help="With wheels: the Python to build on; it must be at this path everywhere."
)
@click.option("--group", help="Its members may deploy, roll back and prune, too (setgid folders, group-writable).")
@click.option("--image", is_flag=True, help="Make a one-file image of it, too, which ROOT/stage takes to the nodes.")
@click.option("--image-only", is_flag=True, help="The image alone, without the folder on the shared file system.")
@click.option("--at", type=UserPath(), metavar="FOLDER",
              help="With --image: the nodes' own folder that it is for. [default: /tmp/cogvideo-sat]")  # fmt: skip
@click.option("--no-activate", is_flag=True, help="Don't make it current: satenv releases ROOT activate NAME does.")
@options.VERIFY
@options.INSTALLING
@options.OUTPUT
def deploy(image, at, no_activate, as_json, progress, **given) -> None:
    """Make a release of the environment for all users of a cluster, and make it current.

    ROOT is a folder that all nodes see. A release, ROOT/releases/DATE-LOCKHASH, is never changed after it was made.
    ROOT/current moves to it in one step, after the doctor's quick level has passed in it; running jobs keep theirs.
    """
    from cogvideo_sat_env.cluster.deploy import Deployment
    from cogvideo_sat_env.cluster.deploy import deploy as make
    from cogvideo_sat_env.cluster.squashfs_image import AT

    if given["no_doctor"]:
        raise click.UsageError("a release is made current after the doctor has passed in it: leave --no-doctor out")
    bundle, identity, signers = given["bundle"], given["identity"], given["signers"]
    if bundle and (given["sources"] or given["lock"]):
        raise click.UsageError("--bundle has its own lock and files: leave --source and --lock out")
    if not bundle and (given["base"] or signers or identity):
        raise click.UsageError("--base, --signers and --identity are about a --bundle")
    require_signers(identity, signers)
    image = image or given["image_only"]
    if at and not image:
        raise click.UsageError("--at is about an --image")
    more = {"activate": not no_activate, "image_at": (at or AT) if image else None}
    wanted = taken(Deployment, given, request=create_request(given), **more)
    done = make(wanted, progress)
    show(done, as_json)
    sys.exit(done.exit_code)
