"""The report as one HTML page that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import MissingToolError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.report.report import InventoryReport, View
from cogvideo_sat_env.report.size import bytes_of, largest

PARTS = Path(__file__).parent / "page"


def render(report: InventoryReport) -> bytes:
    """Return the page. Raises MissingToolError where plotly, which draws, isn't among the tools."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingToolError(
            "plotly is not among the tools of this program; the page needs it",
            "run scripts/satenv of a checkout, which brings it, or: pip install plotly; text and --json do without",
        ) from error
    data = report.to_json() | {"charts": [_charts(report, view) for view in report.views]}
    title = "What is in it: " + ", ".join(dict.fromkeys(view.inventory.source for view in report.views))
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (PARTS / "page.css").read_text(encoding="utf-8"),
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": (PARTS / "page.js").read_text(encoding="utf-8"),
    }
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    pieces = text.split("@@")  # text, name, text, name, …: what is put in isn't looked through again
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces)).encode("utf-8")


def _charts(report: InventoryReport, view: View) -> dict[str, Any]:
    """Return plotly's figures of one view; the page gives them the colours of its mode."""
    from plotly.graph_objects import Bar, Figure, Treemap

    installed = view.sizes.installed
    sizes = [0] * len(view.graph.roots)
    leaves = []
    for package in largest(view.inventory.packages, installed):
        size = bytes_of(package, installed)
        if size:
            owner = view.graph.owner[package.key]
            sizes[owner] += size
            leaves.append((f"/{owner}/{package.key}", package.name, f"/{owner}", size))
    roots = [(f"/{n}", root.spec, "/", sizes[n]) for n, root in enumerate(view.graph.roots)]
    top = ("/", view.inventory.label, "", view.sizes.total.size)
    nodes = [node for node in (top, *roots, *leaves) if node[3]]
    treemap = Treemap(
        ids=[node[0] for node in nodes], labels=[_plain(node[1]) for node in nodes],
        parents=[node[2] for node in nodes], values=[node[3] for node in nodes], branchvalues="total",
        text=[human_bytes(node[3]) for node in nodes], texttemplate="%{label}<br>%{text}", tiling={"pad": 1},
        hovertemplate="%{label}<br>%{text}, %{percentRoot:.1%} of all<extra></extra>",
    )  # fmt: skip
    ages = report.ages(view)
    bars = Bar(x=list(ages.values()), y=list(ages), orientation="h", text=list(ages.values()), textposition="auto",
               hovertemplate="%{y}: %{x} packages<extra></extra>")  # fmt: skip
    return {name: json.loads(Figure(trace).to_json())["data"] for name, trace in (("sizes", treemap), ("ages", bars))}


def _plain(text: str) -> str:
    """Return a text that plotly shows as it is: it would read `<2.11 …` as a tag."""
    return html.escape(text, quote=False)
