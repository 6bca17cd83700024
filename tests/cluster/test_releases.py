"""`satenv releases`: one rename forward, one back, and nothing deleted that anybody may need."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from cluster.admin import Site, slurm
from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.printable import some
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster import releases
from cogvideo_sat_env.install.prefix_lock import prefix_lock

pytestmark = pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64")


def three(apps: Site) -> list[str]:
    """Deploy three releases; the last one is current, the middle one before it."""
    return [apps.deploy(*without).name for without in (["data", "x264"], ["data"], [])]


def prune(apps: Site, keep: int | None = None, name: str | None = None, **options: bool) -> releases.Done:
    return releases.prune(apps.path, Silent(), keep=keep, name=name, **options)


def test_rollback_goes_back_and_forth_and_activate_anywhere(apps: Site) -> None:
    first, second, third = three(apps)
    assert apps.root.current_name() == third
    assert releases.rollback(apps.path, Silent()).facts == {"current": second, "previous": third}
    assert releases.rollback(apps.path, Silent()).facts["current"] == third
    releases.activate(apps.path, first, Silent())
    assert releases.rollback(apps.path, Silent()).facts["current"] == third
    found = releases.list_releases(apps.path)
    assert [entry["release"] for entry in found.releases] == [first, second, third]
    assert (found.current, found.previous) == (third, first)
    text = found.to_text()
    assert f"*  {third}" in text and "previous" in text and "passed" in text
    assert json.loads(json.dumps(found.to_json()))["releases"][0]["packages"] in (3, 4, 5)


def test_what_a_kill_between_link_and_history_leaves_is_put_right(apps: Site) -> None:
    first, second, _ = three(apps)
    os.replace(_link(apps, first), apps.root.current)
    releases.activate(apps.path, second, Silent())
    assert releases.rollback(apps.path, Silent()).facts["current"] == first


def _link(apps: Site, name: str) -> Path:
    link = apps.path / ".current.half"
    link.symlink_to(f"releases/{name}")
    return link


def test_prune_keeps_the_newest_the_current_the_previous_and_the_pinned(apps: Site) -> None:
    first, second, third = three(apps)
    releases.pin(apps.path, first, True, Silent())
    assert prune(apps, 0).facts["kept"] == {first: "pinned", second: "what rollback goes to", third: "current"}
    for name, why in ((first, "pinned"), (second, "what rollback goes to"), (third, "current")):
        with pytest.raises(PrefixError, match=f"is not deleted: it is {why}"):
            prune(apps, name=name)
    releases.pin(apps.path, first, False, Silent())
    assert prune(apps, 0, dry_run=True).facts["deleted"] == [first] and first in apps.root.names()
    assert prune(apps, 3).facts["deleted"] == []
    assert prune(apps, 0).facts["deleted"] == [first]
    assert apps.root.names() == [second, third]
    left = sorted(path.name for path in (*apps.root.releases.iterdir(), *apps.root.modules.iterdir()))
    assert not [name for name in left if first in name]


def running(number: int, words: str, state: str = "RUNNING", started: float | None = None) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(started if started is not None else time.time()))
    comment = [] if "\x1f" in words else ["(null)"]
    return "\x1f".join([str(number), "ada", state, when, "/home/ada", words, *comment]) + "\n"


def queue(apps: Site, text: str, scripts: dict[str, str] | None = None, code: int = 0) -> None:
    slurm(apps.machine.home.parent / "slurm", text, scripts, code)


NOW, LONG_AGO = None, 0.0
JOBS = [  # what Slurm says of a job, its script, whether it uses the first release
    (("(null)", "RUNNING", NOW), "source {root}/releases/{first}/bin/activate-cogvideo-sat", True),
    (("(null)", "RUNNING", NOW), "module load cogvideo-sat/{first}", True),
    (("(null)", "PENDING", NOW), "ml cogvideo-sat/{first}", True),
    (("{root}/releases/{first}/bin/python", "RUNNING", NOW), None, True),
    (("x\x1fcogvideo-sat-env release {first}", "RUNNING", NOW), "", True),
    (("(null)", "RUNNING", LONG_AGO), ". {root}/load.sh", True),
    (("(null)", "RUNNING", LONG_AGO), '. "$(satenv stage {root})"', True),
    (("(null)", "RUNNING", LONG_AGO), '. "$({root}/stage)"', True),
    (("(null)", "RUNNING", NOW), "{root}/stage {root}/images/{first}.sqfs", True),
    (("(null)", "RUNNING", LONG_AGO), "{root}-old/load.sh", False),
    (("(null)", "SUSPENDED", LONG_AGO), "module load gcc cogvideo-sat", True),
    (("(null)", "RUNNING", NOW), ". {root}/load.sh", False),  # it began when another was current
    (("(null)", "PENDING", LONG_AGO), ". {root}/load.sh", False),  # it will take what is current
    (("(null)", "RUNNING", LONG_AGO), ". ~/.conda/envs/cogvideo-sat/bin/activate", False),
    (("(null)", "COMPLETED", LONG_AGO), "module load cogvideo-sat/{first}", False),
]


@pytest.mark.slow
def test_a_release_that_a_job_names_is_in_use(apps: Site) -> None:
    first, *_ = three(apps)
    time.sleep(1.1)  # Slurm's times are whole seconds
    words = {"root": apps.path, "first": first}
    for (command, state, started), script, used in JOBS:
        listed = running(7, command.format(**words), state, started)
        queue(apps, listed, {} if script is None else {"7": f"#!/bin/bash\n{script.format(**words)}\n"})
        done = prune(apps, 0, dry_run=True)
        assert (done.facts["deleted"] == []) is used, (command, state, script)
        assert done.facts["kept"].get(first) == (f"in use by job 7 of ada ({state.lower()})" if used else None)
    queue(apps, running(7, f"{apps.path}/releases/{first}/bin/python"))
    with pytest.raises(PrefixError, match=r"is not deleted: it is in use by job 7 of ada \(running\)"):
        prune(apps, name=first)
    assert f"{first} is used by job 7 of ada" in releases.list_releases(apps.path).to_text()


def test_a_lease_counts_as_long_as_its_job_is_in_the_queue(apps: Site) -> None:
    first, *_ = three(apps)
    apps.root.leases.joinpath(f"{first}@9").touch()
    queue(apps, running(9, "(null)"), {"9": "#!/bin/sh\n"})
    assert first in prune(apps, 0).facts["kept"]
    queue(apps, "")
    assert prune(apps, 0).facts["deleted"] == [first] and not list(apps.root.leases.iterdir())


def test_a_process_of_this_host_counts(apps: Site) -> None:
    first, *_ = three(apps)
    prefix = apps.root.prefix(first)
    child = subprocess.Popen([prefix / "bin" / "python", "-c", "input()"], stdin=subprocess.PIPE,
                             env={"CONDA_PREFIX": str(prefix), "HOME": "/"})  # fmt: skip
    try:
        with pytest.raises(PrefixError, match=f"in use by process {child.pid} on this host"):
            prune(apps, name=first)
    finally:
        child.communicate(b"\n", timeout=20)
    assert prune(apps, name=first).facts["deleted"] == [first]


def test_where_slurm_does_not_answer_nothing_is_deleted_unless_told(apps: Site) -> None:
    first, *_ = three(apps)
    queue(apps, "", code=1)
    with pytest.raises(SatenvError, match="Unable to contact slurm controller") as error:
        prune(apps, 0)
    assert "--ignore-jobs" in str(error.value.remedy) and first in apps.root.names()
    assert "Slurm doesn't say" in releases.list_releases(apps.path).notes[0]
    apps.root.leases.joinpath(f"{first}@9").touch()
    assert first in prune(apps, 0, ignore_jobs=True).facts["kept"]  # a lease that nobody can judge is kept
    apps.root.leases.joinpath(f"{first}@9").unlink()
    assert prune(apps, 0, ignore_jobs=True).facts["deleted"] == [first]


def test_scripts_that_slurm_does_not_show_are_counted(apps: Site) -> None:
    apps.deploy()
    queue(apps, running(1, "x") + running(2, "y"))
    assert "its operators: 2" in releases.list_releases(apps.path).notes[0]


def test_what_cut_off_runs_left_is_swept(apps: Site) -> None:
    first, *_ = three(apps)
    trash = apps.root.releases / f".{first}.satenv-trash-0123"
    apps.root.prefix(first).rename(trash)  # prune, killed in the middle
    half = apps.root.releases / ".2020-01-01-0123456789ab.satenv-new-0123"
    half.mkdir()  # deploy, killed in the middle, of a lock that nobody deploys again
    (half / "file").touch()
    states = {entry["release"]: entry["state"] for entry in releases.list_releases(apps.path).releases}
    assert states[first] == "no folder"
    assert prune(apps, 0).facts["deleted"] == [first]
    assert not [path for path in apps.root.releases.iterdir() if path.name.startswith(".")]


def test_a_release_that_is_being_made_is_not_pruned(apps: Site) -> None:
    first, *_ = three(apps)
    (apps.root.releases / f"{first}.json").unlink()  # made, and not proven yet
    with prefix_lock(apps.root.prefix(first), Silent()):
        assert prune(apps, 0).facts["deleted"] == []
        with pytest.raises(PrefixError, match="still locked"):
            prune(apps, name=first)
    assert "wasn't completed" in releases.list_releases(apps.path).releases[0]["state"]
    assert prune(apps, 0).facts["deleted"] == [first]


def test_bad_records_and_names_are_named(apps: Site) -> None:
    with pytest.raises(InputError, match="no releases; expected one that"):
        releases.list_releases(apps.path)
    name = apps.deploy().name
    for do in (lambda: releases.activate(apps.path, "../x", Silent()), lambda: prune(apps, name="2020")):
        with pytest.raises(InputError, match=f"has no release .*there are: {name}"):
            do()
    with pytest.raises(InputError, match="nothing that was current before"):
        releases.rollback(apps.path, Silent())
    path = apps.root.releases / f"{name}.json"
    typed = json.dumps({**json.loads(path.read_text()), "bytes": "many"})
    for text in ("{", "[]", '{"schema": 9}', "\0", typed):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"{name}\.json"):
            releases.list_releases(apps.path)
    path.unlink()
    assert apps.deploy().record["packages"] == 5
    for text in ("{", "{}", "[1]", '[{"release": 3, "time": 0.0}]'):
        (apps.path / "history.json").write_text(text)
        with pytest.raises(InputError, match=r"history\.json"):
            releases.list_releases(apps.path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("activate", "activate which release?"), ("list --keep 2", "are about prune"), ("rollback x", "takes no release"),
        ("prune", "prune which?"), ("prune x --keep 1", "prune which?"), ("prune --keep -1", "-1 is not in the range"),
        ("frobnicate", "is not one of"),
    ],
)  # fmt: skip
def test_wrong_usage_is_said(apps: Site, arguments: str, said: str) -> None:
    run = apps.satenv("releases", str(apps.path), *arguments.split())
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr


@pytest.mark.slow
def test_the_command_line_lists_and_deploy_refuses_what_contradicts_itself(apps: Site) -> None:
    name = apps.deploy().name
    run = apps.satenv("releases", str(apps.path), "--json")
    assert run.returncode == 0 and json.loads(run.stdout)["current"] == name, run.stderr
    for words in ("--no-doctor", "--bundle x --source channel", "--identity me", "--base y"):
        run = apps.satenv("deploy", str(apps.path), *words.split())
        assert run.returncode == 2 and "Traceback" not in run.stderr
    run = apps.satenv("deploy", str(apps.path), "--bundle", str(apps.path / "none.pyz"))
    assert run.returncode == 3 and "none.pyz" in run.stderr and "Traceback" not in run.stderr


def test_who_is_shown_in_a_line() -> None:
    assert some(["1", "2", "3", "4", "5"], 3) == "1, 2, 3 and 2 more" and some(["1", "2"], 2) == "1, 2"
