"""The list of error strings: whole, in step with checks, tests and docs/errors.md; used when a check fails."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.catalogue import ALL_CHECKS
from cogvideo_sat_env.doctor.check_result import CheckSpec
from cogvideo_sat_env.doctor.errors_md import to_markdown
from cogvideo_sat_env.doctor.symptoms import explain, read_symptoms
from cogvideo_sat_env.spec.breakage import read_ledger

ROOT = Path(__file__).parents[2]
SYMPTOMS = read_symptoms()


def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.error[:40])
def test_each_names_checks_that_exist_and_a_test_that_exists_or_why_not(symptom):
    assert set(symptom.checks) <= {spec.id for spec in ALL_CHECKS}
    if symptom.test is not None:
        path, _, name = symptom.test.partition("::")
        assert name in functions_in(ROOT / path)


def test_no_error_stands_twice_or_is_the_ledgers():
    errors = [symptom.error for symptom in SYMPTOMS]
    assert len(set(errors)) == len(errors) and not set(errors) & {entry.error for entry in read_ledger().all}


def test_the_page_is_made_from_the_data():
    """After a change of the data: python -m cogvideo_sat_env.doctor.errors_md > docs/errors.md"""
    assert (ROOT / "docs" / "errors.md").read_text() == to_markdown(SYMPTOMS, read_ledger())


def test_the_page_holds_every_error():
    page = (ROOT / "docs" / "errors.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("### ")]
    errors = {symptom.error for symptom in SYMPTOMS} | {entry.error for entry in read_ledger().all}
    assert sorted(headings) == sorted(f"### `{error}`" for error in errors)  # each once


def test_every_error_has_a_check_that_names_it():
    page = (ROOT / "docs" / "errors.md").read_text()
    for section in page.split("\n### ")[1:]:
        assert "\n- Doctor: `" in section, section


def test_words_are_found_across_lines_and_only_for_the_checks_concerned():
    assert explain(
        SYMPTOMS, "imports.alone", "ImportError: libcublas.so.12: cannot open\nshared object file"
    ).remedy.startswith("unset LD")
    assert explain(SYMPTOMS, "text.t5", "cannot open shared object file") is None
    assert explain(SYMPTOMS, "imports.alone", "something new") is None


def test_a_failed_check_gets_the_remedy_of_its_symptom(toy):
    doctor = toy("def alone(request): raise OSError('libcublas.so.12: cannot open shared object file')")
    (doctor._probes / "imports.py").write_text((doctor._probes / "toy.py").read_text())
    doctor._checks = (CheckSpec("imports.alone", "quick", "nothing", "alone"),)
    (result,) = doctor.run("quick").results
    assert "identity.files" in result.remedy and "is gone, or hidden" in result.details["means"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("symptoms: 3\n", "expected the list of symptoms"),
        ("symptoms:\n- x\n", ":2: expected a symptom"),
        ("symptoms:\n- {error: a, means: b, remedy: c}\n", "lacks 'seen'"),
        ("symptoms:\n- {error: a, means: b, remedy: c, seen: d}\n", "lacks 'checks'"),
        ("symptoms:\n- {error: a, means: b, remedy: c, seen: d, checks: [e]}\n", "either 'test' or 'untested'"),
    ],
)
def test_an_entry_that_is_not_whole_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "symptoms.yml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_symptoms(path)
    assert words in caught.value.message and str(path) in caught.value.message
