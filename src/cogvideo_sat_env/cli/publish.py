"""`satenv publish`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import OUTPUT, UserPath, examples, show


@click.command(
    **examples("""
    satenv publish channel /srv/conda/cogvideo              what would be uploaded, and nothing more
    satenv publish channel /srv/conda/cogvideo --yes        do it
    satenv publish channel s3://bucket/cogvideo --yes       credentials as every AWS tool finds them
    satenv publish channel https://prefix.dev/my-channel    key in RATTLER_AUTH_FILE or PREFIX_API_KEY
    satenv publish channel https://conda.example.org/cogvideo --server quetz
    """)
)
@click.argument("channel_dir", type=UserPath(exists=True, file_okay=False))
@click.argument("target")
@click.option("--yes", is_flag=True, help="Upload; without it nothing is changed anywhere.")
@click.option("--force", is_flag=True, help="Replace packages that are there under the same name with other bytes.")
@click.option(
    "--server",
    type=click.Choice(["prefix", "quetz", "artifactory", "anaconda"]),
    help="The kind of server behind an http(s) address [known for prefix.dev and anaconda.org].",
)
@OUTPUT
def publish(channel_dir, target, yes, force, server, as_json, progress) -> None:
    """Publish the channel in CHANNEL_DIR to TARGET: a folder, s3://BUCKET/PREFIX or an http(s) address.

    The channel is proven first (hashes, sizes, metadata, dependencies); packages go up before the index.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.package.publish.publish import publish as publish_channel

    how = {"yes": yes, "force": force, "server": server}
    outcome = publish_channel(channel_dir, target, **how, root=project_root(), progress=progress)
    show(outcome, as_json)
    sys.exit(outcome.exit_code)
