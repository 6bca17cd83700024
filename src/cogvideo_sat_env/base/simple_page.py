"""A page of a simple package index (PEP 503), which pip also reads with --find-links."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping


def simple_page(links: Iterable[tuple[str, str, Mapping[str, str]]]) -> bytes:
    """Return the page of these links: address (with its `#sha256=`), file name, further attributes."""
    lines = []
    for url, name, attributes in links:
        extra = "".join(f' {key}="{html.escape(value)}"' for key, value in attributes.items())
        lines.append(f'<a href="{html.escape(url)}"{extra}>{html.escape(name)}</a><br>\n')
    return f"<!DOCTYPE html>\n<html><body>\n{''.join(lines)}</body></html>\n".encode()
