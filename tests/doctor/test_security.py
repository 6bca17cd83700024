"""Security checks: advisories in OSV's format against real version rules, and permissions that were really loosened."""

from __future__ import annotations

import json
import os
import zipfile

import pytest

from cogvideo_sat_env.doctor.checks._osv import is_affected


def advisory(name="torch", **changes):
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.6.0"}]}],
    }  # fmt: skip
    return {
        "id": "GHSA-53q9-r3pm-6pq6",
        "aliases": ["CVE-2025-32434"],
        "summary": "code\nexecution",
        "affected": [affected],
    } | changes


def events(*pairs):
    return {"ranges": [{"type": "ECOSYSTEM", "events": [{kind: version} for kind, version in pairs]}]}


@pytest.mark.parametrize(
    ("version", "affected", "expected"),
    [
        ("2.5.1", events(("introduced", "0"), ("fixed", "2.6.0")), True),
        ("2.6.0", events(("introduced", "0"), ("fixed", "2.6.0")), False),
        ("2.6.0rc1", events(("introduced", "0"), ("fixed", "2.6.0")), True),
        ("2.5.1+cu128", events(("introduced", "0"), ("fixed", "2.6.0")), True),
        ("2.5.1.post1", events(("introduced", "2.5.1"), ("last_affected", "2.5.1")), False),
        ("2.5.1", events(("introduced", "2.5.1"), ("last_affected", "2.5.1")), True),
        ("1.5", events(("introduced", "1"), ("fixed", "1.4"), ("introduced", "1.5"), ("fixed", "1.6")), True),
        ("1.4.2", events(("introduced", "1"), ("fixed", "1.4"), ("introduced", "1.5"), ("fixed", "1.6")), False),
        ("1.4.2", events(("fixed", "1.6"), ("introduced", "1.5"), ("fixed", "1.4"), ("introduced", "1")), False),
        ("1.10", events(("introduced", "1.9"), ("fixed", "1.11")), True),
        ("3.0", events(("introduced", "1"), ("limit", "*")), True),
        ("3.0", events(("introduced", "1"), ("limit", "2")), False),
        ("1.2", {"versions": ["1.1", "1.2"]}, True),
        ("1.3", {"versions": ["1.1", "1.2"]}, False),
        ("1.3", {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
        ("1.2.0", {"versions": ["1.1", "1.2"]}, True),
        ("2.4.0b1.post", events(("introduced", "0"), ("fixed", "2.4.0")), True),  # PEP 440: .post0
        ("1_2", events(("introduced", "0"), ("fixed", "2")), None),
        ("2024a", events(("introduced", "0"), ("fixed", "2024b")), True),  # PEP 440: an alpha, and a beta
        ("9e", {"versions": ["9f"]}, None),
        ("9e", {"versions": ["9e"]} | events(("introduced", "0"), ("fixed", "9f")), True),
        ("3.0", events(("introduced", "9e"), ("fixed", "9f")), None),
        ("3.0", {"ranges": [*events(("fixed", "9f"))["ranges"], *events(("introduced", "2"))["ranges"]]}, True),
        ("1_2", {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_ranges_and_versions_are_evaluated_as_osv_says(version, affected, expected):
    assert is_affected(version, affected) is expected


@pytest.fixture
def examined(prefix):
    prefix.distribution("torch", "2.5.1+cu124")
    prefix.distribution("Pillow", "12.0.0")

    def check(content, name="osv.json", **options):
        path = prefix.root / name
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return prefix.check("security.advisories", options={"security.advisories": str(path)} | options)

    return check


def test_without_advisories_it_is_not_run(prefix):
    result = prefix.check("security.advisories")
    assert result.status == "not_run" and "--advisories" in result.finding


def test_a_known_vulnerability_is_named_with_the_version_that_fixes_it(examined):
    result = examined([advisory(), advisory("pillow", id="PYSEC-1")])
    assert result.status == "failed"
    assert result.finding == "1 known vulnerabilities: torch 2.5.1+cu124: GHSA-53q9-r3pm-6pq6 (fixed in 2.6.0)"
    assert "--update torch" in result.remedy and result.details["hits"][0]["aliases"] == ["CVE-2025-32434"]


@pytest.mark.parametrize(
    "content",
    [[advisory(withdrawn="2025-01-01T00:00:00Z")], {"vulns": [advisory("black")]}],
    ids=["withdrawn", "of another package"],
)
def test_what_does_not_apply_is_not_told(examined, content):
    result = examined(content)
    assert result.status == "passed" and "1 advisories, none applies" in result.finding


def test_advisories_of_another_ecosystem_prove_nothing(examined):
    other = advisory(affected=[{"package": {"ecosystem": "npm", "name": "torch"}, "versions": ["2.5.1"]}])
    result = examined([other, other])
    assert result.status == "failed" and "its advisories are about npm (2); expected some about PyPI" in result.finding
    assert examined([other, advisory("black")]).status == "passed"


def test_a_version_that_is_not_pep_440_is_told_and_not_taken_for_good(examined, prefix):
    prefix.distribution("tzdata", "2024_1")
    prefix.distribution("odd", "1_2")  # no advisory names it: there is nothing to judge
    zone = advisory("tzdata", id="PYSEC-2", aliases=["CVE-2"])
    result = examined([zone, advisory("pillow", id="PYSEC-1")])
    assert result.status == "warning"
    assert result.finding == (
        "4 Python packages, 2 advisories: not judged, because the versions aren't all PEP 440: tzdata 2024_1 (PYSEC-2);"
        " of the others none applies"
    )
    assert result.details["not_judged"] == {"tzdata 2024_1": ["PYSEC-2"]} and "security.accepted" in result.remedy
    worse = examined([zone, advisory()])
    assert worse.status == "failed" and worse.finding.startswith("1 known vulnerabilities: torch 2.5.1+cu124: GHSA")
    assert "not judged, because the versions aren't all PEP 440: tzdata 2024_1 (PYSEC-2)" in worse.finding
    accepted = examined([zone], **{"security.accepted": ["CVE-2"]})
    assert accepted.status == "passed" and "(CVE-2 accepted)" in accepted.finding


def test_an_accepted_advisory_is_left_out_and_told(examined):
    result = examined(advisory(), **{"security.accepted": ["CVE-2025-32434"]})
    assert result.status == "passed" and "(CVE-2025-32434 accepted)" in result.finding


def test_folders_and_zips_are_read(examined, prefix):
    folder = prefix.root / "osv" / "PyPI"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(advisory()))
    (folder / "b.json").write_text(json.dumps(advisory("pillow", id="PYSEC-1")))
    assert "torch 2.5.1+cu124" in examined(None, "osv").finding
    with zipfile.ZipFile(prefix.root / "all.zip", "w") as archive:
        archive.write(folder / "a.json", "GHSA.json")
    assert "torch 2.5.1+cu124" in examined(None, "all.zip").finding


TORCH = '{"id": "x", "affected": [{"package": {"name": "torch", "ecosystem": "PyPI"}, %s}]}'


@pytest.mark.parametrize(
    "content",
    [TORCH % '"ranges": [3]', TORCH % '"versions": 5', '{"id": "x", "affected": [{"package": "torch"}]}'],
)
def test_an_advisory_that_is_not_as_osv_says_is_named(examined, content):
    result = examined(content)
    assert result.status == "failed" and "x: " in result.finding and "OSV's JSON format" in result.finding


def test_a_damaged_zip_is_named_with_the_file_in_it(examined, prefix):
    with zipfile.ZipFile(prefix.root / "all.zip", "w") as archive:
        archive.writestr("GHSA.json", json.dumps(advisory()))
    content = bytearray((prefix.root / "all.zip").read_bytes())
    content[50] ^= 0xFF
    (prefix.root / "all.zip").write_bytes(content)
    result = examined(None, "all.zip")
    assert result.status == "failed" and "all.zip:GHSA.json" in result.finding and "whole zip" in result.finding


@pytest.mark.parametrize(
    "content",
    ["{", '["a"]', '{"affected": []}', '{"id": "x", "affected": 3}', "[]", "[" * 200_000],
    ids=lambda c: c[:20],
)
def test_what_is_no_advisory_fails_and_is_never_taken_for_a_clean_answer(examined, content):
    result = examined(content)
    assert result.status == "failed" and "advisories" in result.finding and "osv.json" in result.finding


def test_files_that_only_the_owner_can_change_pass(prefix):
    result = prefix.check("security.permissions")
    assert result.status == "passed" and result.finding.endswith("none that others can change")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_everybody_can_change_is_told(prefix, kind):
    path = prefix.module("sat")
    path = path if kind == "file" else path.parent
    path.chmod(0o777)
    (prefix.root / "a-link").symlink_to("/no/where")  # a link's own permissions mean nothing
    result = prefix.check("security.permissions")
    assert (
        result.status == "warning" and f"1 files and folders can be changed by everybody, e.g. {path}" in result.finding
    )
    assert result.remedy == f"chmod -R o-w '{prefix.root}'"


def test_a_parent_in_which_everybody_can_put_another_prefix_is_told(prefix, tmp_path):
    tmp_path.chmod(0o777)
    result = prefix.check("security.permissions")
    assert result.status == "warning" and result.remedy == f"chmod o-w '{tmp_path}/'"
    tmp_path.chmod(0o1777)  # as /tmp: nobody can rename what is another's
    assert prefix.check("security.permissions").status == "passed"
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_another_users_files_are_told(prefix):
    path = prefix.module("sat")
    os.chown(path, 4321, 4321)
    result = prefix.check("security.permissions")
    assert result.status == "warning" and f"1 belong to another user, e.g. {path}" in result.finding
