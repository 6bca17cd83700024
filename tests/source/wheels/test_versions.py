"""Bounds keep their meaning on the way between PEP 440 and conda."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet
from rattler import Version, VersionSpec

from cogvideo_sat_env.source.wheels.versions import conda_to_specifier, specifier_to_conda

GOLDEN = [
    ("", ""),
    (">=1.2", ">=1.2"),
    (">=1.2,<2", "<2dev0,>=1.2"),
    ("<2.0.0", "<2dev0"),
    ("<2.0rc1", "<2.0rc1"),
    ("<1.0.post1", "<1.0.post1"),
    (">1.2", ">1.2,!=1.2.post*"),
    (">1.2.post1", ">1.2.post1"),
    ("<=3.1", "<=3.1"),
    ("==1.2", "==1.2"),
    ("==1.2.*", "1.2.*"),
    ("!=1.2", "!=1.2"),
    ("!=1.2.*", "!=1.2.*"),
    ("~=1.4.2", ">=1.4.2,1.4.*"),
    ("~=1.15", ">=1.15,1.*"),
    ("~=2.2.post3", ">=2.2.post3,2.*"),
    ("~=1!2.3", ">=1!2.3,1!2.*"),
    ("===1.0", "==1.0"),
    ("==0.66b2", "==0.66b2"),
    ("==2.9.0.post0", "==2.9.0.post0"),
    (">=1.0-rc.1", ">=1.0rc1"),
    (">= 1.0 , != 1.3.* , < 2", "!=1.3.*,<2dev0,>=1.0"),
]
VERSIONS = [
    "0.9", "1.0rc1", "1.0", "1.2", "1.2.post1", "1.2.1", "1.3", "1.3.5", "1.4.1", "1.4.2", "1.4.9", "1.5", "1.15", "1.20",
    "2.0.dev1", "2.0a1", "2.0rc1", "2.0", "2.0.post1", "2.2.post3", "2.3", "2.9.0.post0", "3.1", "0.66b2", "10.0",
]  # fmt: skip

# conda's order puts 2.0.dev1 after 2.0rc1, PEP 440 before; no clause can change an order
DIFFERENT_ORDER = {("<2.0rc1", "2.0.dev1")}


@pytest.mark.parametrize(("specifier", "conda"), GOLDEN)
def test_specifier_becomes_conda_clauses(specifier: str, conda: str) -> None:
    assert specifier_to_conda(specifier) == conda


@pytest.mark.parametrize("specifier", [specifier for specifier, _ in GOLDEN if specifier])
def test_rattler_and_packaging_agree_on_every_version(specifier: str) -> None:
    ours, theirs = VersionSpec(specifier_to_conda(specifier)), SpecifierSet(specifier, prereleases=True)
    compared = [version for version in VERSIONS if (specifier, version) not in DIFFERENT_ORDER]
    differ = [version for version in compared if ours.matches(Version(version)) != theirs.contains(version)]
    assert differ == []


@pytest.mark.parametrize(
    ("conda", "specifier"),
    [
        ("", ""),
        ("*", ""),
        (">=2.5.1,<2.11", "<2.11,>=2.5.1"),
        ("3.11.*", "==3.11.*"),
        ("12.9*", "==12.9.*"),
        ("=1.2", "==1.2.*"),
        ("==1.2", "==1.2"),
        ("1.2", "==1.2"),
        ("!=1.2.*", "!=1.2.*"),
        (">=1.2.*", ">=1.2"),
        ("~=1.2", "~=1.2"),
    ],
)
def test_conda_clauses_become_a_specifier(conda: str, specifier: str) -> None:
    assert conda_to_specifier(conda) == specifier


@pytest.mark.parametrize("conda", ["1.2|1.3", ">=1.2 <3", ">=", "^1.2", ">=1_2_x"])
def test_conda_clauses_without_a_pep440_form_are_refused(conda: str) -> None:
    with pytest.raises(ValueError):
        conda_to_specifier(conda)


def test_a_broken_specifier_is_refused() -> None:
    with pytest.raises(ValueError):
        specifier_to_conda(">=1.2,=>3")
