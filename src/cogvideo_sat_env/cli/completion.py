"""`satenv completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cogvideo_sat_env.cli import COMPLETION
from cogvideo_sat_env.cli.options import examples


@click.command(
    **examples("""
    satenv completion bash >> ~/.bashrc                             in every new shell
    satenv completion zsh >> ~/.zshrc
    satenv completion fish > ~/.config/fish/completions/satenv.fish
    """)
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context, shell) -> None:
    """Print a script that completes commands, options and their values on the Tab key."""
    click.echo(get_completion_class(shell)(context.find_root().command, {}, "satenv", COMPLETION).source())
