"""What the engines do, in a process of its own: both py-rattlers can abort an interpreter that is ending.

The calls are those of `conda build recipe/`
(conda_build/_rattler_build/compat.py), so that what builds here builds there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.child import answer, ask
from cogvideo_sat_env.base.errors import SatenvError


def do(request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Have a child do `request`; return its answer, `{"error": …}` when the engine refuses.

    `environment` joins this process's variables. Raises SatenvError when the child dies without an answer.
    """
    found = ask("package.build.worker", request, "the build engine", environment)
    if found.get("kind") == "":
        raise SatenvError(f"can't {request['do']}: {found['error']}", "run again; report this if it happens twice")
    return found


class _Log:
    """Writes what the engine says into a file; it wants all five methods."""

    def __init__(self, path: Path) -> None:
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process

    def on_log(self, event: Any) -> None:
        # one of them for every setting of pip that the user doesn't have
        if not (event.message.startswith("Secret ") and event.message.endswith("not found in environment")):
            self._stream.write(f"{event.message}\n")
            self._stream.flush()

    def on_build_step(self, event: Any) -> None:
        self._stream.write(f"{event.step_name}: {event.message}\n")

    def on_download_start(self, event: Any) -> None: ...
    def on_download_progress(self, event: Any) -> None: ...
    def on_download_complete(self, event: Any) -> None: ...


def _render(request: Mapping[str, Any]) -> list[Any]:
    from rattler_build.render import RenderConfig
    from rattler_build.stage0 import Stage0Recipe
    from rattler_build.tool_config import PlatformConfig
    from rattler_build.variant_config import VariantConfig

    platform = PlatformConfig(
        target_platform=request["platform"], build_platform=request["build_platform"],
        host_platform=request["platform"], experimental=False,
    )  # fmt: skip
    recipe = Stage0Recipe.from_file(Path(request["recipe"]) / "recipe.yaml")
    return recipe.render(VariantConfig(), RenderConfig(platform=platform))  # nothing in it depends on a variant


def _outputs(request: Mapping[str, Any]) -> dict[str, Any]:
    found = []
    for index, rendered in enumerate(_render(request)):
        recipe = rendered.recipe.to_dict()
        found.append(
            {
                "index": index,
                "name": recipe["package"]["name"],
                "version": recipe["package"]["version"],
                "build": recipe["build"]["string"],
                "subdir": rendered.variant["target_platform"],
            }
        )
    return {"outputs": found}


def _build(request: Mapping[str, Any]) -> dict[str, Any]:
    from rattler_build.tool_config import ToolConfiguration

    tools = ToolConfiguration(
        test_strategy="skip",  # the finished package is tested, when its bytes no longer change
        noarch_build_platform=request["build_platform"], channel_priority="strict", use_sharded=False,
    )  # fmt: skip
    result = _render(request)[request["index"]].run_build(
        tool_config=tools, output_dir=request["output_dir"], channels=request["channels"],
        progress_callback=_Log(Path(request["log"])), no_build_id=True, package_format="conda:1",  # repacked afterwards
        no_include_recipe=True,  # the rendered recipe has this machine's paths and the time in it
    )  # fmt: skip
    return {"package": str(result.packages[0])}


def _describe(request: Mapping[str, Any]) -> dict[str, Any]:
    from rattler_build.package import Package

    package = Package.from_file(request["package"])
    # tests of its contents aren't among them: the build has run those
    return {"count": package.test_count, "names": [spec.split()[0] for spec in package.depends]}


def _test(request: Mapping[str, Any]) -> dict[str, Any]:
    from rattler_build.package import Package

    package = Package.from_file(request["package"])
    log = _Log(Path(request["log"]))
    for index in range(package.test_count):
        result = package.run_test(
            index, channel=request["channels"], channel_priority="strict", use_sharded=False, progress_callback=log
        )
        if not result.success:
            return {"error": f"test {index + 1} of {package.test_count} failed"}
    return {}


def _pack_program(request: Mapping[str, Any]) -> dict[str, Any]:
    from rattler_build import assemble_package, collect_files

    made = assemble_package(
        request["name"], request["version"], request["platform"], "0", Path(request["out"]),
        files=collect_files(Path(request["stage"])), summary=request["summary"], detect_prefix=False,
    )  # fmt: skip
    return {"package": str(made.path)}


_DO = {
    "render": _outputs,
    "build": _build,
    "describe": _describe,
    "test": _test,
    "pack a program": _pack_program,
}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Do what `request` asks for."""
    return _DO[request["do"]](request)


if __name__ == "__main__":
    answer(main)
