"""The report of the project's locks: the same facts as text, as JSON, and on one page that needs nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.report.bounds import judge
from cogvideo_sat_env.report.html import render
from cogvideo_sat_env.report.licences import flagged, flags
from cogvideo_sat_env.report.report import age_group, make_report
from inventories import of, package, project, variant

PROJECT = Path(__file__).parents[2]
DAY = 86400
MOMENT = 1_760_000_000


@pytest.fixture(scope="module")
def report():
    return make_report(project(), 1_795_000_000)


def test_the_json_tells_of_every_package_what_the_page_shows(report) -> None:
    found = report.to_json()
    assert [view["label"] for view in found["views"]] == [one.inventory.label for one in report.views]
    for view in found["views"]:
        keys = {p["key"] for p in view["packages"]}
        assert len(view["packages"]) == view["total"]["packages"] == sum(view["ages"].values())
        assert sum(r["counted"]["bytes"] for r in view["requirements"]) == view["total"]["bytes"]
        for entry in view["packages"]:
            assert set(entry["needs"]) <= keys and 0 <= entry["root"] < len(view["roots"])
            assert (entry["built"] is None) == (entry["age_days"] is None)
            assert entry["size"] != 0
        assert not [row for row in view["bounds"] if row["broken"]]
    assert str(PROJECT) not in json.dumps(found)


def test_the_text_names_sizes_licences_bounds_ages_and_the_versions_side_by_side(report) -> None:
    text = report.to_text()
    for words in ("4.5 GB to download", "NVIDIA's terms: 41", "Unknown: 7", "floors and bounds hold", "median",
                  "oldest font", "0.9.0 (pip)"):  # fmt: skip
        assert words in text
    assert re.search(r"^requirement +linux-64-c\w+ ", text, re.MULTILINE)


def test_a_broken_bound_an_unknown_size_and_a_young_package_are_said() -> None:
    inventory = of(
        package("pytorch", "2.14.1", build="cuda129_0", timestamp=MOMENT - 3 * DAY, size=None),
        package("webdataset", "1.0.2", kind="pip", licence=None, timestamp=None),
    )
    made = make_report([inventory], MOMENT)
    text = made.to_text()
    assert "! pytorch 2.14.1 cuda129_0 breaks <2.11 (torch-2.11)" in text
    assert "! webdataset 1.0.2 breaks <0.2.88" in text
    assert "1.0 kB + 1 unknown to download" in text and "under 14 days: pytorch (3 d)" in text and "unknown: 1" in text
    (view,) = made.to_json()["views"]
    assert view["total"] == {"bytes": 1000, "packages": 2, "unknown": 1}


def test_an_age_falls_into_the_group_that_begins_with_it() -> None:
    ages = (0, 13, 14, 89, 90, 364, 365, 1094, 1095, None)
    assert [age_group(age) for age in ages] == [
        "under 14 days", "under 14 days", "14 to 90 days", "14 to 90 days", "90 days to a year", "90 days to a year",
        "1 to 3 years", "1 to 3 years", "older than 3 years", "unknown",
    ]  # fmt: skip


def test_a_cpu_variant_isnt_judged_by_the_bound_on_the_cuda_build() -> None:
    cpu = variant("linux-64-cpu")
    (torch,) = [row for row in judge(cpu) if row.name == "pytorch"]
    assert torch.package.build.startswith("cpu") and not torch.broken
    assert {bound.id for bound in torch.bounds} == {"floor", "torch-2.11"}


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", ()),
        ("LicenseRef-NVIDIA-End-User-License-Agreement", ("nvidia",)),
        ("LicenseRef-cuDNN-Software-License-Agreement", ("nvidia",)),
        ("GPL-3.0-only", ("gpl",)),
        ("AGPL-3.0-or-later", ("gpl",)),
        ("GPL-3.0-only WITH GCC-exception-3.1", ("gpl-exception",)),
        ("LGPL-2.1-or-later", ("lgpl",)),
        ("MIT AND LGPL-2.1-only AND GPL-2.0-only", ("gpl", "lgpl")),
        ("GPL-2.0-only OR FTL", ()),  # a choice
        ("GPL-2.0-or-later OR LGPL-3.0-or-later", ("lgpl",)),
        ("Apache-2.0 WITH LLVM-exception", ()),
        ("GNU General Public License v2 (GPLv2)", ("gpl",)),
        ("GNU Lesser General Public License v3", ("lgpl",)),
        ("LGPL-2.0-or-later WITH exceptions AND GPL-2.0-or-later", ("gpl", "gpl-exception")),  # not in SPDX's words
        ("Apache License, Version 2.0", ()),
        ("BSD 3-Clause", ()),
        ("Dual License", ("own-terms",)),
        ("LicenseRef-IntelSimplifiedSoftwareOct2022", ("own-terms",)),
        ("(((", ("own-terms",)),
        ("", ("unknown",)),
        (None, ("unknown",)),
    ],
)
def test_a_licence_is_flagged_by_what_it_means_for_who_hands_it_on(licence, expected) -> None:
    assert flags(licence) == expected
    assert list(flagged([package("x", licence=licence)])) == list(expected[:1])


def test_the_command_takes_several_and_refuses_what_it_cannot_read(tmp_path: Path, monkeypatch) -> None:
    run = CliRunner().invoke
    lock = str(PROJECT / "locks/conda-osx-arm64.lock")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795000000")
    found = json.loads(run(cli, ["report", lock, lock, "--json"]).output)
    assert [view["variant"] for view in found["views"]] == ["osx-arm64-data"] * 2 and found["as_of"] == "2026-11-18"
    (tmp_path / "poetry.lock").write_text("[[package]]\nname = 'x'\n[metadata]\nlock-version = '2'\n")
    with pytest.raises(InputError, match="is a lock of Poetry"):
        run(cli, ["report", str(tmp_path / "poetry.lock")], catch_exceptions=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH='yesterday'"):
        run(cli, ["report", lock], catch_exceptions=False)


def test_without_plotly_the_page_is_refused_and_the_text_goes_on(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    made = make_report([of(package("a"))], MOMENT)
    with pytest.raises(MissingToolError, match="plotly is not among the tools"):
        render(made)
    assert "some.yml" in made.to_text()


@pytest.mark.slow
def test_the_page_is_one_file_that_names_no_other_and_is_the_same_each_time() -> None:
    made = make_report([of(package("a", needs=["b"]), package("b", size=None))], MOMENT)
    page = render(made)
    assert page == render(made)
    text = page.decode("utf-8")
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]  # without plotly's program
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(|<script[^>]+src""", own)
    assert "default-src 'none'" in text and len(page) < 8_000_000
