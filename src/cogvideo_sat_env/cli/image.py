"""`satenv image`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import UserPath, create_request, examples, show, source, taken


@click.command(
    **examples("""
    satenv image oci --base rootfs                             on a root file system, as debootstrap makes it
    satenv image oci --base rootfs.tar.gz --tag 2026-11        from an archive of one
    satenv image oci --base rootfs --bundle sat.pyz            where no channel can be reached
    satenv image oci --base rootfs --source wheels --python /usr/bin/python3.11     the base's Python, by its path
    satenv image oci --base rootfs --dockerfile Dockerfile --apptainer sat.def      recipes of the same, too
    """)
)
@click.argument("out", type=UserPath(file_okay=False))
@click.option("--base", required=True, type=UserPath(), metavar="DIR|ARCHIVE",
              help="A root file system: a folder, or a tar archive (gzip, bzip2, xz, zstd or plain).")  # fmt: skip
@click.option("--at", default="/opt/cogvideo-sat", show_default=True, type=UserPath(), metavar="PATH",
              help="Where the environment is in a container.")  # fmt: skip
@click.option("--tag", default="latest", show_default=True, help="The image's tag in the layout.")
@click.option("--compression", type=click.Choice(["gzip", "zstd", "none"]), default="gzip", show_default=True,
              help="Of the layers. zstd is smaller and faster; not every tool reads it.")  # fmt: skip
@click.option("--dockerfile", type=UserPath(dir_okay=False), metavar="FILE", help="Write a Dockerfile of the same.")
@click.option("--apptainer", type=UserPath(dir_okay=False), metavar="FILE",
              help="Write an Apptainer definition of the same.")  # fmt: skip
@click.option("--bundle", type=UserPath(dir_okay=False), metavar="FILE", help="Make the environment from a bundle.")
@source("auto")
@click.option("--variant", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True,
              help="Where it is made says nothing about where it runs.")  # fmt: skip
@click.option("--python", type=UserPath(), help="With wheels: the Python to build on, at the base's path of it.")
@options.LOCK
@options.MAX_FILE_SIZE
@options.VERIFY
@options.BREAK_LOCK
@options.WAIT
@options.OUTPUT
def image(bundle, as_json, progress, **given) -> None:
    """Write a container image of the environment to the folder OUT: an OCI image layout, without Docker.

    Large packages have a layer each, the others share some, so that an update ships little. The same lock, base and
    compression give the same digest.
    """
    from cogvideo_sat_env.bundle.install import install_bundle
    from cogvideo_sat_env.cluster.oci.image import make
    from cogvideo_sat_env.cluster.oci.image_layout import Image
    from cogvideo_sat_env.create.create import CreateRequest, create

    if bundle and (given["sources"] or given["lock"] or given["python"]):
        raise click.UsageError("--bundle brings its own packages and lock: leave --source, --lock and --python out")

    def build(asked: CreateRequest) -> object:
        return install_bundle(bundle, asked, progress) if bundle else create(asked, progress)

    show(make(taken(Image, given), build, create_request(given), progress), as_json)
