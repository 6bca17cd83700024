"""Job scripts: golden folders of a site file, arguments and the script; bash and shellcheck take every one of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import InputError, MissingToolError, PrefixError
from cogvideo_sat_env.cli.slurm import slurm
from cogvideo_sat_env.cluster.slurm import site, write_job
from satcheckout import make_checkout, training, write_yaml

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "tests" / "golden" / "slurm"
EXAMPLES = PROJECT / "docs" / "sites"
HOME = "/home/ana"
RELEASE = "2026-11-26-0123456789ab"


class Home:
    """A user's folder with a checkout, an environment and runs; what it writes has HOME in the place of its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sat = make_checkout(path / "CogVideo")
        self.prefix = path / "envs" / "sat"
        (self.prefix / "bin").mkdir(parents=True)
        for name in ("activate-cogvideo-sat", "python", "cogvideo-sat-env"):
            (self.prefix / "bin" / name).write_text("", encoding="utf-8")
        config = yaml.safe_load((self.sat / "configs" / "sft.yaml").read_text(encoding="utf-8"))
        config["args"]["experiment_name"] = "boats"
        write_yaml(self.sat / "configs" / "sft.yaml", config)
        sampling = {"mode": "inference", "load": "ckpts/boats", "input_type": "txt", "input_file": "prompts.txt"}
        write_yaml(self.sat / "configs" / "inference.yaml", {"args": sampling})
        parallel = training(model_parallel_size=2, experiment_name="it's two; parts")
        write_yaml(self.sat / "configs" / "odd name.yaml", parallel)
        (path / "runs" / "boats-7").mkdir(parents=True)
        shutil.copytree(self.prefix, path / "sw" / "releases" / RELEASE)
        (path / "sw" / "current").symlink_to(f"releases/{RELEASE}")
        (path / "sw" / "stage").write_text("#!/bin/sh\n", encoding="utf-8")

    def run(self, *words: str, code: int = 0) -> str:
        """Run `satenv slurm WORDS` with HOME meant as this folder; return the output."""
        done = CliRunner().invoke(slurm, [word.replace(HOME, str(self.path)) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    def train(self, *words: str, code: int = 0) -> str:
        """Run `satenv slurm train` with what it can't do without."""
        bases = ("--base", "configs/model.yaml", "--base", "configs/sft.yaml")
        fixed = ("-p", f"{HOME}/envs/sat", "--sat", f"{HOME}/CogVideo", "--output", f"{HOME}/job", *bases)
        return self.run("train", *fixed, *words, code=code)

    def text(self, path: Path) -> str:
        """Return a file that was written, with the same words on every machine."""
        return path.read_text(encoding="utf-8").replace(str(self.path), HOME).replace(__version__, "VERSION")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in (site.VARIABLE, "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["pytest"])
    return Home(tmp_path / "ana")


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_scripts_are_the_golden_ones_and_shellcheck_finds_nothing(case: str, home: Home) -> None:
    """SATENV_GOLDEN=write writes what comes of it; look at the difference before it is committed."""
    folder = GOLDEN / case
    words = shlex.split((folder / "arguments").read_text(encoding="utf-8"))
    named = folder / "site.yml"
    words[1:1] = ["--json", *(["--site", str(named)] if named.exists() else [])]
    found = json.loads(home.run(*words))
    script = Path(found["script"])
    golden = folder / script.name
    text = home.text(script)
    if os.environ.get("SATENV_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    assert sorted(path.name for path in script.parent.iterdir() if path.is_file()) == sorted(
        Path(p).name for p in found["files"]
    )
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_worked_example_of_a_site_is_a_golden_case() -> None:
    used = {path.resolve().name for path in GOLDEN.glob("*/site.yml")}
    assert used >= {path.name for path in EXAMPLES.glob("*.yml")}


def test_every_key_of_the_schema_is_one_of_a_site_and_has_words() -> None:
    properties = site.schema_of_site()["properties"]
    assert set(properties) == set(site.Site.__dataclass_fields__) - {"file"}
    assert all(item["description"] for item in properties.values())


@pytest.mark.fault("site-file", "error", "names file, line and key, and the nearest known key")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin: gpu\n", ["site.yml:1: unknown key 'partitoin'", "did you mean 'partition'?"]),
        ("name: x\n\nproxies: {htttp: y}\n", ["site.yml:3: unknown key 'htttp' in 'proxies'", "did you mean 'http'?"]),
        ("zzz: 1\n", ["unknown key 'zzz'", "known are: name, partition"]),
        ("time: 24:00:00\n", ["site.yml:1: time: 86400; expected a text", "quotes"]),
        ("account: 0042\n", ["account: 34", "quotes"]),
        ('time: "a day"\n', ["time: 'a day'", "time limit"]),
        ("modules: cuda\n", ["modules: 'cuda'; expected a list"]),
        ("modules: [1]\n", ["modules[0]: 1; expected a text"]),
        ("signal_seconds: 3\n", ["signal_seconds: 3; expected 10 or more"]),
        ("requeues: true\n", ["requeues: True; expected a whole number"]),
        ('partition: "a b"\n', ["partition: 'a b'"]),
        ("variables: {1A: x}\n", ["'1A' can't be the name of a variable"]),
        ('variables: {A: "x\\ny"}\n', ["variables.A"]),
        ("proxies: {http: 'http://ana:secret@proxy:1'}\n", ["proxies.http holds a password"]),
        ("- a\n", ["the file: ['a']; expected keys with values"]),
        ("name: [\n", ["site.yml:", "in YAML"]),
    ],
)  # fmt: skip
def test_a_site_file_that_cannot_be_is_one_error_with_its_line(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "site.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        site.read(path)
    told = f"{caught.value.message} {caught.value.remedy}"
    assert all(word in told for word in words) and "secret" not in told, told


def test_an_empty_site_file_has_no_facts(tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("# nothing yet\n", encoding="utf-8")
    assert site.read(tmp_path / "site.yml").partition == ""


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("30", 1800), ("5:30", 330), ("24:00:00", 86400), ("1-12", 129600), ("2-00:30", 174600), ("1-1:1:1", 90061)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: int) -> None:
    assert site.seconds(limit) == seconds


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["--nodes", "0"], InputError, "expected 1 node or more"),
        (["--gpus-per-node", "-1"], InputError, "0 GPUs (the CPU) or more"),
        (["--base", "configs/none.yaml"], InputError, "no such file"),
        (["--base", f"{HOME}/CogVideo/sat/configs/inference.yaml"], InputError, "mode: inference; expected the YAMLs"),
        (["--base", f"{HOME}/CogVideo/sat/train_video.py"], InputError, "expected a config of CogVideo's sat/"),
        (["--site", f"{HOME}/none.yml"], InputError, "none.yml: no such file; expected a site file"),
        (["--resume", f"{HOME}/none"], InputError, "no such folder; expected that of a run"),
        (["-p", f"{HOME}/CogVideo"], PrefixError, "no environment there"),
        (["--sat", f"{HOME}/envs"], InputError, "holds no CogVideo checkout"),
        (["--output", f"{HOME}/envs/sat/bin/python"], InputError, ""),
    ],
)
def test_what_cannot_be_run_is_one_error_and_nothing_is_written(words, error, told, home: Home) -> None:
    if "--output" in words:
        assert "is a file" in home.train(*words, code=2)
        return
    with pytest.raises(error) as caught:
        home.train(*words)
    assert told in str(caught.value) and not (home.path / "job").exists()


@pytest.mark.fault("job-config", "error", "names the file, its line and what is expected; writes nothing")
def test_a_config_that_upstream_cannot_read_is_named(home: Home) -> None:
    (home.sat / "configs" / "sft.yaml").write_text("args: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"sft\.yaml:\d+: .*expected a config"):
        home.train()


def test_a_time_limit_shorter_than_the_signal_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text('time: "5"\n', encoding="utf-8")
    with pytest.raises(InputError, match="would be told to end at its start"):
        home.train("--site", str(tmp_path / "site.yml"))


def test_a_run_without_checkpoints_is_refused(home: Home) -> None:
    write_yaml(home.sat / "configs" / "sft.yaml", training(save=None))
    with pytest.raises(InputError, match="no `save`"):
        home.train()


def test_prompts_from_a_keyboard_are_refused(home: Home) -> None:
    write_yaml(home.sat / "configs" / "inference.yaml", {"args": {"mode": "inference", "load": "x"}})
    with pytest.raises(InputError, match="reads prompts from a keyboard"):
        home.run("sample", "-p", f"{HOME}/envs/sat", "--sat", f"{HOME}/CogVideo", "--output", f"{HOME}/job",
                 "--base", "configs/model.yaml", "--base", "configs/inference.yaml")  # fmt: skip


@pytest.mark.fault("job-edited", "error", "leaves it, and says how to replace it or to write elsewhere")
def test_an_edited_script_is_never_lost(home: Home) -> None:
    home.train()
    home.train()  # the same again is no conflict
    script = home.path / "job" / "train.sbatch"
    script.write_text(script.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    (home.path / "job" / "sat_job.py").unlink()
    with pytest.raises(InputError, match="edited"):
        home.train()
    assert script.read_text(encoding="utf-8").endswith("# mine\n") and not (home.path / "job" / "sat_job.py").exists()
    home.train("--overwrite")
    assert "# mine" not in script.read_text(encoding="utf-8")


@pytest.mark.fault("slurm-missing", "error", "writes the script, and names the command of Slurm that is missing")
def test_without_slurm_the_script_is_written_and_submitting_says_what_is_missing(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="no sbatch on PATH") as caught:
        home.train("--submit")
    assert (home.path / "job" / "train.sbatch").is_file() and "sbatch" in str(caught.value.remedy)
    with pytest.raises(MissingToolError, match="no sinfo on PATH"):
        home.run("site", "--output", str(home.path / "site.yml"))


def test_a_run_that_is_known_to_fail_is_not_submitted(home: Home) -> None:
    (home.sat / "transformer" / "latest").unlink()
    with pytest.raises(InputError, match=r"not submitted: .*latest"):
        home.train("--submit")
    assert "FAILS" in home.train()


def test_a_release_is_named_by_itself_so_that_a_job_keeps_it(home: Home, tmp_path: Path) -> None:
    """With an image alone there is no folder: `current` is a link that leads nowhere."""
    root, site_file = home.path / "sw", tmp_path / "site.yml"
    script = home.path / "shell" / "shell.sh"
    site_file.write_text(f"root: {root}\n", encoding="utf-8")
    words = ("shell", "--site", str(site_file), "--output", f"{HOME}/shell", "--overwrite")
    home.run(*words)
    assert f"PREFIX={root}/releases/{RELEASE}\n" in script.read_text(encoding="utf-8") and os.access(script, os.X_OK)
    shutil.rmtree(root / "releases" / RELEASE)
    with pytest.raises(PrefixError, match="sw/current: no environment there"):
        home.run(*words)
    site_file.write_text(f"root: {root}\nstage: mount\n", encoding="utf-8")
    home.run(*words)
    assert f"PREFIX={root}/releases/{RELEASE}\nSAT=" in script.read_text(encoding="utf-8")
    (root / "stage").unlink()
    with pytest.raises(InputError, match="expected a release, and .*/sw/stage beside the releases"):
        home.run(*words)


@pytest.mark.fault("slurm-refuses", "error", "sbatch's own reason; the script stays")
def test_sbatch_answers_with_a_number_or_with_its_reason(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def sbatch(body: str) -> None:
        (tools / "sbatch").write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / "sbatch").chmod(0o755)

    sbatch('echo "77;cluster"')
    assert json.loads(home.train("--submit", "--json"))["job"] == "77"
    sbatch('echo "sbatch: error: invalid partition specified: nope" >&2; exit 1')
    with pytest.raises(Exception, match="sbatch refuses .*: invalid partition specified: nope"):
        home.train("--submit")


def test_more_options_are_upstreams_and_are_quoted(home: Home) -> None:
    home.train("--", "--train-iters", "5", "--debug", "it's $HOME")
    text = (home.path / "job" / "train.sbatch").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("MORE="))
    shown = subprocess.run(
        ["bash", "-c", f'{line}\nprintf "%s|" "${{MORE[@]}}"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "--train-iters|5|--debug|it's $HOME|"


def test_a_quote_in_a_folder_is_refused_before_anything_is_written(home: Home) -> None:
    with pytest.raises(InputError, match="quote or a line break"):
        home.train("--output", f'{HOME}/my "job"')
    assert write_job.TRAIN == "train"
