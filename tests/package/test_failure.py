"""A build's log becomes one error that names the file, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import MissingToolError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.package.build.failure import explain
from cogvideo_sat_env.package.build.outputs import Output
from cogvideo_sat_env.spec.variants import read_variants

PROJECT = Path(__file__).parents[2]
OUTPUT = Output(0, "webdataset", "0.2.86", "pyh_0", "noarch")
WRONG = f"""\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.
    webdataset==0.2.86 from file:///house/webdataset-0.2.86-py3-none-any.whl (from -r requirements.txt (line 1)):
        Expected sha256 {"a" * 64}
             Got        {"b" * 64}
"""


@pytest.mark.parametrize(
    ("log", "wheelhouse", "kind", "words"),
    [
        (WRONG, Path("/house"), VerificationError, [f"expected SHA-256 {'a' * 64}, found {'b' * 64}", "/house"]),
        ("ERROR: No matching distribution found for webdataset==0.2.86\n", Path("/house"), SourceError,
         ["/house has no file for webdataset==0.2.86", "pip download"]),
        ("ERROR: No matching distribution found for webdataset==0.2.86\n", None, SourceError,
         ["the configured package index has no file for webdataset==0.2.86", "pip's index-url"]),
        ("/x/bin/python: No module named pip\n", None, MissingToolError, ["no pip"]),
        ("+ make\nthe compiler exploded\n\nTo run the script manually, use the following command:\n", None, SatenvError,
         ["Script failed", "the compiler exploded"]),
        (None, None, SatenvError, ["Script failed"]),
    ],
    ids=["hash", "missing offline", "missing in the index", "no pip", "script", "no log"],
)  # fmt: skip
def test_what_failed_is_said(tmp_path, log, wheelhouse, kind, words):
    file = tmp_path / "build.log"
    if log is not None:
        file.write_text(log)
    error = explain(OUTPUT, "Script failed", file, wheelhouse, current_platform())
    assert type(error) is kind
    said = f"{error.message}\n{error.remedy}"
    for word in ["webdataset 0.2.86", *words]:
        assert word in said
    assert "To run the script" not in said and "+ make" not in said


@pytest.mark.parametrize("platform", sorted({variant.platform for variant in read_variants()}))
def test_a_wheelhouse_is_filled_with_the_files_of_the_platform(tmp_path, platform):
    log = tmp_path / "build.log"
    log.write_text("ERROR: No matching distribution found for webdataset==0.2.86\n")
    remedy = explain(OUTPUT, "Script failed", log, Path("/house"), platform).remedy
    (lock,) = (word for word in remedy.split() if word.startswith("locks/"))
    assert (PROJECT / lock).is_file() and lock == f"locks/pip-{platform}.txt" and "-d '/house'" in remedy
    assert ("on a machine that is" in remedy) == (platform != current_platform())  # pip takes the wheels of its machine
