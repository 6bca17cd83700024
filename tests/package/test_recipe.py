"""recipe/ is what conda-build can build as it is: no experimental features, no index, the same packages everywhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.install import activation
from cogvideo_sat_env.lock.render_recipe import wanted_specs
from cogvideo_sat_env.package.build.outputs import METAPACKAGE, Output, plan
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import derive, read_variants

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipe"
PIECES = ["python-ninja", "webdataset", "decord", "deepspeed", "swissarmytransformer", "peft"]


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[Output]]:
    """What is built, by platform."""
    return {platform: plan(RECIPE, platform, []) for platform in ("linux-64", "linux-aarch64", "osx-arm64")}


def test_every_platform_gets_its_packages_once_and_in_order(outputs):
    assert [o.name for o in outputs["linux-64"]] == [*PIECES, METAPACKAGE, METAPACKAGE]
    aarch64 = [name.replace("decord", "decord2") for name in PIECES]
    assert [o.name for o in outputs["linux-aarch64"]] == [*aarch64, METAPACKAGE]
    assert [o.name for o in outputs["osx-arm64"]] == ["webdataset", "eva-decord", METAPACKAGE]


def test_noarch_packages_are_the_same_wherever_they_are_built(outputs):
    by_platform = [{o.file_name for o in found if o.subdir == "noarch"} for found in outputs.values()]
    assert by_platform[0] == by_platform[1] > by_platform[2]


def test_cuda_wins_where_both_can_be_installed(outputs):
    builds = {o.device: o.build for o in outputs["linux-64"] if o.name == METAPACKAGE}
    assert builds["cuda"].startswith("cuda129_") and builds["cpu"].startswith("cpu_")
    numbers = {device: int(build.rpartition("_")[2]) for device, build in builds.items()}
    assert numbers["cuda"] > numbers["cpu"]


def test_no_index_and_no_experimental_feature_is_named():
    for path in (p for p in RECIPE.rglob("*") if p.is_file() and p.parent.name not in ("licenses", "__pycache__")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"index-url|load_from_file|staging:", text), path
        for line in (
            line for line in text.splitlines() if re.search("https?://", line) and path.suffix in (".py", ".yaml")
        ):
            assert line.strip().startswith(("homepage: ", "repository: ")), f"{path}: {line}"


def test_the_activation_scripts_come_from_the_program():
    build = (RECIPE / "build.py").read_text(encoding="utf-8")
    for name in activation.load().scripts:
        step, _, file = name.removeprefix("etc/conda/").partition(".d/")
        assert step in build and file.rpartition(".")[2] in activation.SHELLS
    assert not list(RECIPE.rglob("activate*"))  # no second copy


def test_every_licence_that_is_named_is_there():
    for path in re.findall(r"licenses/[\w.-]+", (RECIPE / "recipe.yaml").read_text(encoding="utf-8")):
        assert (RECIPE / path).is_file(), path


def closure_of_the_doctor() -> set[str]:
    code = (
        "import json, os, sys; from pathlib import Path\n"
        f"sys.dont_write_bytecode = True; sys.path.insert(0, {str(RECIPE)!r})\n"
        "os.environ.update(RECIPE_DIR='.', SRC_DIR='.', PREFIX='.', PKG_NAME='cogvideo-sat-env')\n"
        f"import build; print(json.dumps(sorted(build.closure(Path({str(ROOT / 'src' / 'cogvideo_sat_env')!r})))))\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_the_metapackage_ships_all_that_the_doctor_imports_and_nothing_that_needs_more(tmp_path):
    files = closure_of_the_doctor()
    assert {"__init__.py", "doctor/__main__.py", "data/breakage.yml", "base/errors.py"} <= files
    assert not {name.partition("/")[0] for name in files} & {"cli", "lock", "wheels", "build", "install", "mirror"}
    for name in files:
        target = tmp_path / "cogvideo_sat_env" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / "src" / "cogvideo_sat_env" / name).read_bytes())
    command = tmp_path / "main.py"
    command.write_bytes((RECIPE / "command" / "cli.py").read_bytes())
    run = [sys.executable, "-I", "-B", str(command)]
    said = subprocess.run([*run, "version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"cogvideo-sat-env \d+\.\d+\.\d+\n", said)
    listed = subprocess.run([*run, "doctor", "--list"], capture_output=True, text=True, check=True).stdout
    assert "identity.bounds" in listed
    assert subprocess.run([*run, "dcotor"], capture_output=True, text=True, check=False).returncode == 2
    assert not list(tmp_path.rglob("__pycache__"))


def modules_imported_always(path: Path) -> set[str]:
    """Return the top-level modules that importing the file imports: not those inside functions."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_metapackage_requires_what_its_command_imports():
    source = ROOT / "src" / "cogvideo_sat_env"
    files = [source / name for name in closure_of_the_doctor() if name.endswith(".py")]
    imported = set().union(*map(modules_imported_always, files)) - set(sys.stdlib_module_names)
    imported -= {"cogvideo_sat_env", *(path.stem for path in files)}  # probes import each other by name
    assert "yaml" in imported
    by_module = {"yaml": "pyyaml"}
    environment = read_environment(ROOT / "environment.yml")
    for variant in read_variants():
        derived = derive(environment, variant, ROOT / variant.environment)
        required = {spec.split()[0] for spec in wanted_specs(derived, variant)}
        assert {by_module.get(name, name) for name in imported} <= required, variant.id
