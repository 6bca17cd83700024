"""The report as JUnit XML, for CI systems: a suite a subject, a case a check."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import replacing
from cogvideo_sat_env.doctor.check_result import FAILED, NOT_RUN, WARNING, CheckResult
from cogvideo_sat_env.doctor.doctor_report import DoctorReport

# XML 1.0 has no way to write these
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: DoctorReport) -> bytes:
    """Return the report as JUnit XML in UTF-8. Failed is `failure`, not run is `skipped`, a warning is `system-out`."""
    root = ElementTree.Element("testsuites", name="satenv doctor", time=f"{report.duration:.3f}")
    suites: dict[str, list[CheckResult]] = {}
    for result in report.results:
        suites.setdefault(result.subject, []).append(result)
    for subject, results in suites.items():
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"doctor.{subject}", timestamp=report.started.isoformat(timespec="seconds"),
            tests=str(len(results)), errors="0",
            failures=str(sum(result.status == FAILED for result in results)),
            skipped=str(sum(result.status == NOT_RUN for result in results)),
            time=f"{sum(result.seconds for result in results):.3f}",
        )  # fmt: skip
        for result in results:
            _case(suite, result)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def check_target(path: Path) -> None:
    """Raise InputError when no report can be written to `path`: better now than after minutes of checks."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected the file for the JUnit report", "name a file")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: no folder there that can be written; expected the place of the JUnit report",
            f"mkdir -p '{path.parent}', or name another file with --junit",
        )


def write_junit(report: DoctorReport, path: Path) -> None:
    """Write the report as JUnit XML to `path`, whole or not at all. Raises InputError when it can't be written."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(to_junit(report))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the JUnit report can't be written", "name another file") from error


def _case(suite: ElementTree.Element, result: CheckResult) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"doctor.{result.subject}", name=result.id, time=f"{result.seconds:.3f}"
    )
    advice = f"\n{result.remedy}" if result.remedy else ""
    if result.status == FAILED:
        failure = ElementTree.SubElement(case, "failure", message=_clean(result.finding), type="CheckFailed")
        failure.text = _clean("\n".join([f"{result.finding}{advice}", "", *result.details.get("output", [])]))
    elif result.status == NOT_RUN:
        ElementTree.SubElement(case, "skipped", message=_clean(result.finding))
    else:
        output = f"warning: {result.finding}{advice}" if result.status == WARNING else result.finding
        ElementTree.SubElement(case, "system-out").text = _clean(output)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
