"""The runner: every way in which a check's process can end is a result, never the end of the doctor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.doctor import run
from cogvideo_sat_env.doctor.check_result import CheckSpec
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts

from .conftest import Machine


def spec(function: str, level: str = "quick", **changes) -> CheckSpec:
    return CheckSpec(f"toy.{function}", level, "nothing", function, **({"limit": 20.0} | changes))


def only(report):
    (result,) = report.results
    return result


def gone(pid: int) -> bool:
    """True when the process has ended (a zombie that nobody reaps counts as ended)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def test_the_four_statuses_arrive_with_finding_remedy_and_details(toy):
    doctor = toy(
        """
        def good(request): return passed("seen", count=3)
        def bad(request): return failed("broken", "type this")
        def odd(request): return warning("hm", "or that")
        def none(request): return not_run("not run: no GPU")
        """,
        spec("good"), spec("bad"), spec("odd"), spec("none"),
    )  # fmt: skip
    report = doctor.run("quick")
    assert [result.status for result in report.results] == ["passed", "failed", "warning", "not_run"]
    assert report.results[0].finding == "seen" and report.results[0].details == {"count": 3}
    assert report.results[1].remedy == "type this" and report.results[2].remedy == "or that"
    assert report.exit_code == 1


def test_warnings_and_checks_not_run_do_not_fail(toy):
    doctor = toy(
        "def odd(request): return warning('hm')\ndef none(request): return not_run('no')", spec("odd"), spec("none")
    )
    assert doctor.run("quick").exit_code == 0


def test_an_exception_is_the_finding(toy):
    result = only(toy("def a(request): raise TypeError(\"'bool' object is not callable\")", spec("a")).run("quick"))
    assert (result.status, result.finding) == ("failed", "TypeError: 'bool' object is not callable")
    assert any("Traceback" in line for line in result.details["output"])


def test_a_segmentation_fault_is_named(toy):
    result = only(toy("def a(request): os.kill(os.getpid(), signal.SIGSEGV)", spec("a")).run("quick"))
    assert result.status == "failed"
    assert "SIGSEGV (segmentation fault)" in result.finding and "Fatal Python error" in result.finding


@pytest.mark.slow
def test_a_hang_is_ended_after_its_limit_with_all_that_it_started(toy, tmp_path):
    text = f"""
        def a(request):
            child = subprocess.Popen(["sleep", "60"])
            Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
            print("waiting for nothing", flush=True)
            time.sleep(60)
        """
    start = time.monotonic()
    result = only(toy(text, spec("a", limit=2.0)).run("quick"))
    assert time.monotonic() - start < 15
    assert result.status == "failed" and result.finding == "no answer within 2 s; ended: waiting for nothing"
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
def test_a_hang_gets_the_chance_to_release_its_lock(toy, tmp_path):
    lock = tmp_path / "lock"
    text = f"""
        def a(request):
            Path({str(lock)!r}).touch()
            try: time.sleep(60)
            finally: os.unlink({str(lock)!r})
        """
    only(toy(text, spec("a", limit=2.0)).run("quick"))
    assert not lock.exists()


@pytest.mark.slow
def test_a_hang_before_a_dead_compilation_lock_is_explained(toy, tmp_path):
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    doctor = toy(
        "def a(request): time.sleep(60)", spec("a", limit=1.0), TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions")
    )
    assert f"rm '{lock}'" in only(doctor.run("quick")).remedy


def test_a_check_without_a_result_has_failed(toy):
    result = only(toy("def a(request):\n    print('garbage')\n    os._exit(3)", spec("a")).run("quick"))
    assert (result.status, result.finding) == ("failed", "ended with exit code 3 and without a result: garbage")


def test_an_unreadable_result_is_a_failure(toy):
    text = "def a(request):\n    from ._probe import ProbeOutcome\n    return ProbeOutcome('splendid', 'a status that is none')"
    result = only(toy(text, spec("a")).run("quick"))
    assert result.status == "failed" and "without a result" in result.finding


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        ("def a(request) return 1", "a", "SyntaxError"),
        ("import a_module_that_is_not_there", "a", "No module named 'a_module_that_is_not_there'"),
        ("", "missing", "has no attribute 'missing'"),
    ],
    ids=["syntax error", "failing import", "missing function"],
)
def test_a_check_that_cannot_be_loaded_has_failed(toy, text, function, words):
    result = only(toy(text, spec(function)).run("quick"))
    assert result.status == "failed"
    assert result.finding.startswith("this check can't be loaded") and words in result.finding


def test_a_check_whose_file_is_missing_has_failed(toy):
    result = only(toy("", CheckSpec("absent.a", "quick", "nothing", "a")).run("quick"))
    assert result.status == "failed" and "No module named 'satenv_checks.absent'" in result.finding


def test_a_failing_check_does_not_hide_the_others(toy):
    text = """
        def a(request): os.abort()
        def b(request): return passed("here")
        """
    results = toy(text, spec("a"), spec("b")).run("quick").results
    assert [(r.id, r.status) for r in results] == [("toy.a", "failed"), ("toy.b", "passed")]


def test_a_check_may_share_the_process_of_another_and_survives_its_crash(toy):
    text = """
        def a(request): return passed(str(os.getpid()))
        def b(request): return passed(str(os.getpid()))
        def c(request): os.abort()
        """
    share = toy(text, spec("a"), spec("b", joins="toy.a"), spec("c"))
    first, second, _ = share.run("quick").results
    assert first.finding == second.finding
    share._checks = (spec("c"), spec("b", joins="toy.c"))
    crashed, survivor = share.run("quick").results
    assert crashed.status == "failed" and "SIGABRT" in crashed.finding and survivor.status == "passed"


def test_a_check_may_stand_before_the_one_whose_process_it_joins(toy):
    text = "def a(request): return passed(str(os.getpid()))\ndef b(request): return passed(str(os.getpid()))"
    first, second = toy(text, spec("b", joins="toy.a"), spec("a")).run("quick").results
    assert (first.id, second.id) == ("toy.b", "toy.a") and first.finding == second.finding


def test_a_gpu_check_is_not_started_without_a_gpu(toy):
    text = "def a(request): return failed('started')\ndef b(request): return passed('here')"
    first, second = toy(text, spec("a", level="gpu"), spec("b")).run("full").results
    assert (first.status, first.finding) == ("not_run", "not run: no GPU") and second.status == "passed"
    facts = GpuFacts(driver="575.57", problem="nvidia-smi doesn't answer within 30 s")
    result = only(toy(text, spec("a", level="gpu"), machine=Machine(facts)).run("gpu"))
    assert result.finding == "not run: no GPU (nvidia-smi doesn't answer within 30 s)"


def test_a_gpu_check_runs_with_a_gpu(toy):
    machine = Machine(GpuFacts("575.57", (Gpu(0, "H100", 81559, "9.0"),)))
    text = "def a(request): return passed(request.inputs['gpu']['gpus'][0]['name'])"
    assert only(toy(text, spec("a", level="gpu"), machine=machine).run("full")).finding == "H100"


def test_settings_of_single_checks_arrive(toy):
    text = "def a(request): return passed(str(request.options.get('toy.colour')))"
    assert only(toy(text, spec("a"), options={"toy.colour": "red"}).run("quick")).finding == "red"
    assert only(toy(text, spec("a")).run("quick")).finding == "None"


@pytest.mark.slow
def test_patience_stretches_the_time_limits(toy):
    text = "def a(request):\n    time.sleep(1.5)\n    return passed('slow')"
    assert only(toy(text, spec("a", limit=0.5)).run("quick")).status == "failed"
    assert only(toy(text, spec("a", limit=0.5), patience=40).run("quick")).finding == "slow"


@pytest.mark.parametrize(
    "line",
    [
        "libx.so: undefined symbol: _ZN3c10", "libcudnn.so.9: cannot open shared object file: No such file or directory",
        "/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found", "numpy.dtype size changed, may indicate",
    ],
)  # fmt: skip
def test_a_loader_error_in_the_output_is_a_failure_even_if_all_else_went_well(toy, line):
    text = f"def a(request):\n    print({line!r})\n    return passed('imported')"
    result = only(toy(text, spec("a", loader_errors=True)).run("quick"))
    assert (
        result.status == "failed"
        and result.finding.startswith("imported, but the loader says: ")
        and line in result.finding
    )
    assert only(toy(text, spec("a")).run("quick")).status == "passed"


def test_the_drivers_absence_is_no_loader_error_without_a_gpu(toy):
    text = "def a(request):\n    print('libcuda.so.1: cannot open shared object file')\n    return passed('imported')"
    assert only(toy(text, spec("a", loader_errors=True)).run("quick")).status == "passed"
    machine = Machine(GpuFacts("575.57", (Gpu(0, "H100", 81559, "9.0"),)))
    assert only(toy(text, spec("a", loader_errors=True), machine=machine).run("quick")).status == "failed"


@pytest.mark.slow
def test_a_check_waits_for_the_one_whose_work_it_uses(toy):
    text = """
        def a(request):
            time.sleep(1)
            (request.shared / "made").touch()
            return passed("made")
        def b(request):
            return passed("found") if (request.shared / "made").exists() else failed("not there")
        """
    results = toy(text, spec("b", after=("toy.a",)), spec("a")).run("quick").results
    assert [result.finding for result in results] == ["found", "made"]


def test_a_check_that_uses_anothers_work_runs_without_it(toy):
    doctor = toy("def b(request): return passed('alone')", spec("b", after=("toy.a",)))
    assert only(doctor.run("quick")).finding == "alone"


def test_training_checks_are_not_run_where_only_data_is_prepared(toy, prefix):
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"data_only": true}')
    result = only(toy("def a(request): return failed('ran')", spec("a", training=True)).run("quick"))
    assert (result.status, result.finding) == ("not_run", "not run: this environment only prepares data")


def test_probes_get_the_activated_environment_and_what_a_job_of_the_user_would_have(toy, prefix):
    prefix.file("etc/conda/env_vars.d/a.json", '{"FROM_ENVIRONMENT": "1"}')
    prefix.file("etc/conda/activate.d/a.sh", 'export FROM_SCRIPT="$CONDA_PREFIX"\n')
    names = ["PYTHONWARNINGS", "PYTHONNOUSERSITE", "FROM_ENVIRONMENT", "FROM_SCRIPT", "CONDA_PREFIX", "RANK", "OMP"]
    text = f"def a(request): return passed(repr([os.environ.get(name) for name in {names}] + [os.environ['PATH']]))"
    dirt = {"PYTHONWARNINGS": "ignore", "RANK": "3", "OMP": "kept"}
    found = eval(only(toy(text, spec("a"), **dirt).run("quick")).finding)
    root = str(prefix.root)
    assert found == ["ignore", None, "1", root, root, None, "kept", f"{root}/bin:/usr/bin:/bin"]


def test_nothing_is_left_behind(toy, tmp_path):
    text = "def a(request):\n    (request.workdir / 'x').touch()\n    return passed(str(request.workdir))"
    result = only(toy(text, spec("a")).run("quick"))
    assert result.status == "passed" and not Path(result.finding).parents[1].exists()


def test_an_interrupt_ends_the_running_processes(toy, tmp_path):
    text = f"""
        def a(request):
            Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
            time.sleep(60)
        def b(request):
            while not Path({str(tmp_path / "pid")!r}).exists(): time.sleep(0.05)
            return passed("done")
        """
    doctor = toy(text, spec("a", limit=60.0), spec("b"))
    doctor._workers = 2

    def interrupt(result):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        doctor.run("quick", on_check=interrupt)
    assert time.monotonic() - start < 20
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_second_interrupt_ends_even_what_does_not_listen(toy, tmp_path, monkeypatch):
    """A probe in compiled code doesn't hear SIGTERM; nobody waits ten seconds before the second Ctrl-C."""
    text = f"""
        def a(request):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
            time.sleep(60)
        def b(request):
            while not Path({str(tmp_path / "pid")!r}).exists(): time.sleep(0.05)
            return passed("done")
        """
    doctor = toy(text, spec("a", limit=60.0), spec("b"))
    doctor._workers = 2

    def interrupt(*anything):
        raise KeyboardInterrupt

    def first(result):
        monkeypatch.setattr("cogvideo_sat_env.doctor.run_checks._end", interrupt)
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        doctor.run("quick", on_check=first)
    assert gone(int((tmp_path / "pid").read_text()))


def test_every_result_is_told_as_it_comes(toy):
    told = []
    report = toy("def a(request): return passed('a')\ndef b(request): return failed('b')", spec("a"), spec("b")).run(
        "quick", on_check=told.append
    )
    assert sorted(told, key=lambda result: result.id) == list(report.results)


def test_the_ledgers_remedy_is_found_by_its_exact_error(toy, monkeypatch):
    text = "def webdataset(request): raise TypeError(\"'bool' object is not callable\")"
    doctor = toy(text)
    (doctor._probes / "data.py").write_text((doctor._probes / "toy.py").read_text())
    doctor._checks = (CheckSpec("data.webdataset", "quick", "nothing", "webdataset"),)
    result = only(doctor.run("quick"))
    assert result.remedy == "pip install 'webdataset<0.2.88'"
    assert result.details["ledger"] == "webdataset-0.2.88" and "ResampledShards" in result.details["breaks"]


def test_the_same_error_in_another_check_gets_no_remedy_of_the_ledger(toy):
    result = only(toy("def a(request): raise TypeError(\"'bool' object is not callable\")", spec("a")).run("quick"))
    assert "--only" in result.remedy and "--json" in result.remedy


def test_the_ledgers_entry_can_be_named_by_the_check(toy):
    result = only(toy("def a(request): return failed('x', ledger=('cuda-12.9',))", spec("a")).run("quick"))
    assert result.remedy == "mamba install 'cuda-version=12.9' 'cuda-nvcc=12.9'"


@pytest.mark.parametrize(
    ("module", "conda", "command"),
    [
        ("triton", True, "mamba install 'triton'"),
        ("imageio_ffmpeg", True, "mamba install 'imageio-ffmpeg>=0.5.1'"),
        ("imageio_ffmpeg", False, "pip install --no-deps 'imageio-ffmpeg>=0.5.1'"),
        ("webdataset", False, "pip install --no-deps 'webdataset<0.2.88'"),  # the newest is one that breaks
        ("torchvision", False, "pip install --no-deps 'torchvision>=0.20.1,<0.26'"),
        ("sat.mpu", True, "pip install --no-deps 'SwissArmyTransformer>=0.4.12'"),
        ("a_module_of_nobody", True, None),
    ],
)
def test_a_missing_requirement_comes_with_the_command_that_installs_it(toy, prefix, module, conda, command):
    if conda:
        prefix.file("conda-meta/history", "")
    result = only(toy(f"import importlib\ndef a(request): importlib.import_module({module!r})", spec("a")).run("quick"))
    assert result.status == "failed" and f"No module named '{module.partition('.')[0]}'" in result.finding
    if command is None:  # nobody's module: at least where to read all of it
        assert result.remedy.startswith("see everything that it printed: ./scripts/satenv doctor --json -p ")
    else:
        assert result.remedy == command


def test_a_python_that_cannot_be_started_fails_each_check(toy, prefix):
    doctor = toy("def a(request): return passed('a')", spec("a"))
    (prefix.root / "bin" / "python").write_text("#!/no/such/interpreter\n")
    result = only(doctor.run("quick"))
    assert result.status == "failed" and "can't be started" in result.finding and "satenv create" in result.remedy


@pytest.mark.parametrize(
    ("body", "words"), [("kill -SEGV $$", "SIGSEGV"), ("echo no module named encodings; exit 1", "encodings")]
)
@pytest.mark.parametrize(("leak", "remedy"), [("", "create the env"), ("/host/lib", "unset LD_LIBRARY_PATH")])
def test_a_python_that_dies_before_the_check_is_to_blame_itself(toy, prefix, body, words, leak, remedy):
    doctor = toy("def a(request): return passed('a')", spec("a"), LD_LIBRARY_PATH=leak)
    prefix.program("python", f"{body}\n")
    result = only(doctor.run("quick"))
    assert result.finding.startswith("the environment's Python doesn't start: ") and words in result.finding
    assert result.remedy.startswith(remedy) and "satenv create" in result.remedy


def test_without_room_for_temporary_files_there_is_no_finding_but_an_error(toy, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(InputError) as caught:
        toy("def a(request): return passed('a')", spec("a")).run("quick")
    assert f"{tmp_path / 'gone'}: No such file or directory" in caught.value.message and "TMPDIR" in caught.value.remedy


def test_a_folder_without_python_is_refused(tmp_path):
    with pytest.raises(PrefixError, match="expected the Python of an environment"):
        run(tmp_path)


def test_an_unreadable_receipt_is_told(prefix):
    prefix.file("etc/cogvideo-sat-env/receipt.json", "{")
    result = prefix.check("identity.activation")
    assert result.status == "warning" and "receipt.json" in result.finding


def test_the_prefix_is_only_made_absolute(prefix, tmp_path, monkeypatch):
    """The link `current` of a cluster is what users activate; the report must name it."""
    link = tmp_path / "current"
    link.symlink_to(prefix.root)
    monkeypatch.chdir(tmp_path)
    report = run(Path("current"), only=["toolchain.compiler"])
    assert report.prefix == link
