"""The package index that this site has configured for pip. Its address is used, never written down."""

from __future__ import annotations

import ast
import subprocess
import sys

from cogvideo_sat_env.base.errors import SourceError


def pip_options(*names: str) -> dict[str, str]:
    """Return those of these options that pip's configuration or variables set. Raises SourceError."""
    child = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise SourceError(
            f"pip can't read its configuration: {child.stderr.strip()}", "correct pip's configuration file"
        )
    settings: dict[str, str] = {}
    for line in child.stdout.splitlines():  # sorted by pip; `:env:` stands before `global` and `user` and wins
        key, found, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if found and option in names and (option not in settings or section == ":env:"):
            settings[option] = str(ast.literal_eval(value))
    return settings


def index_urls() -> list[str]:
    """Return the http(s) simple indexes that pip would ask, first the main one.

    Raises SourceError when pip can't be asked.
    """
    settings = pip_options("index-url", "extra-index-url")
    main = settings.get("index-url")
    if main is None:
        from pip._internal.models.index import PyPI  # pip's own constant: the address stands in no file of ours

        main = PyPI.simple_url
    urls = [main, *settings.get("extra-index-url", "").split()]
    return [url for url in urls if url.startswith(("http://", "https://"))]
