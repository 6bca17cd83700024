"""Publishing to package servers and to S3: the real clients against loopback servers, and no secret in sight."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.package.publish.publish import Published, publish

from .conftest import program, requests_of
from .packageserver import KEY
from .s3server import ACCESS_KEY, SECRET_KEY

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3]
READ = {"quetz": "get/mine", "prefix": "mine", "artifactory": "mine"}
VARIABLE = {"quetz": "QUETZ_API_KEY", "prefix": "PREFIX_API_KEY", "artifactory": "ARTIFACTORY_TOKEN"}


def run(channel: Path, target: str, server: str | None = None, *, yes: bool = True, force: bool = False) -> Published:
    return publish(channel, target, yes=yes, force=force, server=server, root=PROJECT, progress=Silent())


def states(outcome: Published) -> list[str]:
    return [item.state for item in outcome.items]


def other_bytes(channel: Path) -> None:
    spec = packages.Spec(
        "toy-piece", "1.0", "py_0", {"share/toy-piece": packages.Text("y\n")}, noarch="generic", summary="other"
    )
    packages.make_package(spec, channel, "noarch")
    (channel / "noarch" / "repodata.json").unlink()  # the indexer doesn't read again what it knows by name
    packages.index(channel)


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    for name in [*VARIABLE.values(), "ANACONDA_API_KEY"]:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "auth.json").write_text("{}")
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    return tmp_path / "auth.json"


@pytest.mark.parametrize("kind", READ)
def test_a_package_server_gets_what_it_lacks(channel, tmp_path, monkeypatch, no_keys, kind):
    log = tmp_path / "log"
    log.touch()
    with program("packageserver.py", str(tmp_path / "served"), str(log)) as url:
        dry = run(channel, f"{url}/mine", kind, yes=False)
        assert states(dry) == ["new"] * 3 and requests_of(log) == []
        monkeypatch.setenv(VARIABLE[kind], KEY)
        assert run(channel, f"{url}/mine", kind).uploaded
        assert [entry["name"][:5] for entry in requests_of(log)] == ["toy-p", "toy-0", "toy-0"]
        (record,) = solve([f"{url}/{READ[kind]}"], ["toy-piece"], current_platform(), {})
        assert record["sha256"] == dry.items[0].package.sha256
        again = run(channel, f"{url}/mine", kind)
        assert states(again) == ["same"] * 3 and not again.uploaded
        other_bytes(channel)
        with pytest.raises(VerificationError, match=r"toy-piece-1\.0-py_0\.conda with other bytes"):
            run(channel, f"{url}/mine", kind)
        if kind == "quetz":
            with pytest.raises(InputError, match="quetz takes no other bytes"):
                run(channel, f"{url}/mine", kind, force=True)
        else:
            assert run(channel, f"{url}/mine", kind, force=True).uploaded
            assert states(run(channel, f"{url}/mine", kind)) == ["same"] * 3
    assert len(requests_of(log)) == (3 if kind == "quetz" else 4)


@pytest.mark.e2e
def test_the_rattler_auth_file_is_enough(channel, tmp_path, no_keys):
    log = tmp_path / "log"
    no_keys.write_text(json.dumps({"127.0.0.1": {"CondaToken": KEY}}))
    with program("packageserver.py", str(tmp_path / "served"), str(log)) as url:
        outcome = run(channel, f"{url}/mine", "quetz")
        assert outcome.uploaded
    assert KEY not in outcome.to_text() + json.dumps(outcome.to_json())


@pytest.mark.parametrize("key", ["", "wrong-key-wrong"])
def test_a_refused_key_is_told_without_the_key(channel, tmp_path, monkeypatch, no_keys, key):
    log = tmp_path / "log"
    log.touch()
    if key:
        monkeypatch.setenv("QUETZ_API_KEY", key)
    expected = "toy-piece-1.0-py_0.conda was not taken: " + ("Server responded with" if key else "No quetz api key")
    with (
        program("packageserver.py", str(tmp_path / "served"), str(log)) as url,
        pytest.raises(SourceError, match=expected) as caught,
    ):
        run(channel, f"{url}/mine", "quetz")
    assert "wrong-key" not in caught.value.message and "QUETZ_API_KEY" in caught.value.remedy
    assert not list((tmp_path).glob("served/**/*.conda"))


def test_a_server_that_does_not_answer_is_named(channel, no_keys):
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9"):
        run(channel, "http://127.0.0.1:9/mine", "quetz")


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """A loopback S3 server, and the variables by which every AWS tool finds it; yields the log of its requests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    log = tmp_path / "s3.log"
    log.touch()
    with program("s3server.py", str(log)) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }.items():
            monkeypatch.setenv(name, value)
        yield log


@pytest.mark.e2e
def test_a_bucket_gets_the_packages_and_then_the_index(channel, s3):
    assert states(run(channel, "s3://bucket/conda/mine", yes=False)) == ["new"] * 3
    assert not [entry for entry in requests_of(s3) if entry["method"] != "GET"]
    outcome = run(channel, "s3://bucket/conda/mine")
    assert outcome.uploaded
    written = [entry["path"] for entry in requests_of(s3) if entry["method"] == "PUT"]
    assert written[:3] == [f"/bucket/conda/mine/{item.package.key}" for item in outcome.items]
    assert {Path(path).name for path in written[3:]} == {"repodata.json", "repodata.json.zst"}
    again = run(channel, "s3://bucket/conda/mine")
    assert states(again) == ["same"] * 3 and not again.uploaded
    other_bytes(channel)
    with pytest.raises(VerificationError, match=r"toy-piece-1\.0-py_0\.conda with other bytes"):
        run(channel, "s3://bucket/conda/mine")
    assert run(channel, "s3://bucket/conda/mine", force=True).uploaded
    assert states(run(channel, "s3://bucket/conda/mine")) == ["same"] * 3


@pytest.mark.e2e
def test_a_refused_s3_key_is_told_without_the_secret(channel, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
    with pytest.raises(SourceError, match="unknown access key") as caught:
        run(channel, "s3://bucket/conda/mine")
    assert SECRET_KEY not in caught.value.message
    assert not [entry for entry in requests_of(s3) if entry["method"] == "PUT"]
