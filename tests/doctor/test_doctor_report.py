"""The report: a table that fits 80 columns without colour, remedies last, JSON with a stable schema."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import fastjsonschema
import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor import CheckResult, DoctorReport
from cogvideo_sat_env.doctor.junit import to_junit, write_junit

DOCS = Path(__file__).parents[2] / "docs"

LONG = "the mixture of " + ", ".join(f"package-{number}" for number in range(40)) + " " + "x" * 120


def report(*results: CheckResult) -> DoctorReport:
    return DoctorReport(Path("/envs/sat"), "full", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), 12.3456, results)


GOOD = CheckResult("identity.floors", "quick", "passed", 0.2, "25 requirements installed")
BAD = CheckResult("training.checkpoint", "full", "failed", 14.25, LONG, "export A=1", {"output": ["last line"]})
ODD = CheckResult("identity.pollution", "quick", "warning", 0.1, "PYTHONPATH is set", "unset PYTHONPATH")
NONE = CheckResult("hardware.gpu", "quick", "not_run", 0.1, "not run: no GPU")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_asked(width):
    assert max(map(len, report(GOOD, ODD, BAD, NONE).to_text(width).splitlines())) <= width


def test_the_table_is_grouped_and_remedies_come_last():
    text = report(GOOD, ODD, BAD, NONE).to_text()
    assert [line for line in text.splitlines() if re.fullmatch(r"[a-z]+", line)] == ["identity", "training", "hardware"]
    before, after = text.split("What to do")
    assert "1 passed, 1 failed, 1 with a warning, 1 not run; 12.3 s" in before
    assert "identity.pollution: unset PYTHONPATH" in after and "training.checkpoint: export A=1" in after
    assert after.rstrip().endswith("export A=1")


def test_a_check_that_was_not_run_says_so_once():
    (line,) = [line for line in report(NONE).to_text().splitlines() if "no GPU" in line]
    assert line.split() == ["gpu", "not", "run", "0.1", "s", "no", "GPU"]


def test_without_problems_there_is_nothing_to_do():
    assert "What to do" not in report(GOOD, NONE).to_text()


def test_colour_adds_only_escapes():
    plain, coloured = report(GOOD, ODD, BAD, NONE).to_text(80), report(GOOD, ODD, BAD, NONE).to_text(80, colour=True)
    assert "\x1b" not in plain and "\x1b[1;31mFAILED\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("results", "code"), [((GOOD, ODD, NONE), 0), ((GOOD, BAD), 1), ((), 0)], ids=["ok", "bad", "none"]
)
def test_the_exit_code_counts_failures_only(results, code):
    assert report(*results).exit_code == code and report(*results).ok == (code == 0)


def test_the_json_schema_is_kept():
    """Schema 1 is a promise: fields may be added, these stay."""
    value = json.loads(json.dumps(report(GOOD, BAD).to_json()))
    assert value["schema"] == 1 and value["prefix"] == "/envs/sat" and value["level"] == "full"
    assert value["started"] == "2026-01-02T03:04:05+00:00" and value["duration"] == 12.346 and value["ok"] is False
    assert value["counts"] == {"passed": 1, "failed": 1, "warning": 0, "not_run": 0}
    assert value["results"][1] == {
        "id": "training.checkpoint", "subject": "training", "level": "full", "status": "failed", "seconds": 14.25,
        "finding": LONG, "remedy": "export A=1", "details": {"output": ["last line"]},
    }  # fmt: skip
    assert value["results"][0]["remedy"] is None and value["results"][0]["details"] == {}


def test_the_json_is_what_the_published_schema_says():
    schema = json.loads((DOCS / "doctor-report.schema.json").read_text())
    assert schema["properties"]["schema"] == {"const": 1}
    validate = fastjsonschema.compile(schema)
    value = report(GOOD, BAD, ODD, NONE).to_json()
    validate(value)
    # every field is described, so that the schema can't fall behind
    assert set(value) == set(schema["properties"]) == set(schema["required"])
    assert set(value["results"][0]) == set(schema["properties"]["results"]["items"]["properties"])
    value["results"][0]["status"] = "splendid"
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(value)


def test_strictly_a_warning_is_a_failure():
    assert report(GOOD, ODD).exit_code == 0 and report(GOOD, ODD).strictly().exit_code == 1
    assert report(GOOD, NONE).strictly().exit_code == 0
    assert report(GOOD, ODD).strictly().to_json()["ok"] is False


def test_junit_has_a_suite_a_subject_and_a_case_a_check():
    root = ElementTree.fromstring(to_junit(report(GOOD, ODD, BAD, NONE)))
    assert root.tag == "testsuites" and (root.get("tests"), root.get("failures"), root.get("skipped")) == (
        "4",
        "1",
        "1",
    )
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["doctor.identity", "doctor.training", "doctor.hardware"]
    (failed,) = suites["doctor.training"]
    assert (failed.get("name"), failed.get("classname"), failed.get("time")) == (
        "training.checkpoint",
        "doctor.training",
        "14.250",
    )
    assert failed.find("failure").get("message") == LONG and "export A=1" in failed.find("failure").text
    assert "last line" in failed.find("failure").text
    assert suites["doctor.hardware"].find("testcase/skipped").get("message") == "not run: no GPU"
    passed, warned = suites["doctor.identity"]
    assert passed.find("failure") is None and "warning: PYTHONPATH is set" in warned.find("system-out").text


def test_junit_survives_what_xml_cannot_say():
    """Programs print control characters; the finding quotes them."""
    odd = CheckResult("toy.a", "quick", "failed", 0.1, "\x00\x1b[31m & <b> \ud800", None, {"output": ["\x07"]})
    (suite,) = ElementTree.fromstring(to_junit(report(odd)))
    assert "& <b>" in suite[0].find("failure").get("message")


def test_the_junit_file_is_whole_or_absent(tmp_path):
    write_junit(report(GOOD), tmp_path / "doctor.xml")
    assert ElementTree.parse(tmp_path / "doctor.xml").getroot().get("tests") == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.xml"]
    with pytest.raises(InputError, match=r"nowhere/doctor.xml: No such file"):
        write_junit(report(GOOD), tmp_path / "nowhere" / "doctor.xml")
