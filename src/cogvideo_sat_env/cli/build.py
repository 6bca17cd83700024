"""`satenv build`."""

from __future__ import annotations

from pathlib import Path

import click

from cogvideo_sat_env.cli.options import OUTPUT, UserPath, examples, show


@click.command(
    **examples("""
    satenv build                                    the metapackage and its pieces, into ./channel
    satenv build --out /srv/channel                 into that channel; what it has stays
    satenv build --platform linux-aarch64           for another platform
    satenv build --wheelhouse ./wheelhouse          the files of PyPI from a folder
    satenv build --channel file:///data/conda-forge --no-test
    """)
)
@click.option(
    "--out", type=UserPath(file_okay=False), default=Path("channel"), show_default=True,
    help="Folder of the channel.",
)  # fmt: skip
@click.option("--platform", metavar="SUBDIR", help="conda subdir to build for [default: this machine's].")
@click.option(
    "--variant", "variants", multiple=True, metavar="NAME", help="Only this metapackage: cuda, cpu [default: all]."
)
@click.option("--wheelhouse", type=UserPath(), help="Folder with the files of PyPI, in place of the index.")
@click.option(
    "--channel", "channels", multiple=True, metavar="NAME|URL|DIR",
    help="Where Python and the tests' packages come from [default: environment.yml's channels, else wheels].",
)  # fmt: skip
@click.option("--no-test", is_flag=True, help="Don't run the recipe's tests.")
@click.option(
    "--all-tests", is_flag=True,
    help="Where PyTorch has to come from the package index (4 GB), fetch it for the tests that need it.",
)  # fmt: skip
@OUTPUT
def build(out, no_test, all_tests, as_json, progress, **given) -> None:
    """Build the metapackage cogvideo-sat-env, and the pieces that conda channels lack, into an indexed channel.

    From the files of PyPI that recipe/ names by SHA-256. Run twice, the bytes are the same; run again after a failure,
    what is finished is kept. The index is written last.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.package.build.build import BuildOptions
    from cogvideo_sat_env.package.build.build import build as build_channel

    if no_test and all_tests:
        raise click.UsageError("--no-test and --all-tests exclude each other")
    options = BuildOptions(test=not no_test, all_tests=all_tests, **given)
    outcome = build_channel(project_root(), out.absolute(), options, progress)
    show(outcome, as_json)
