"""recipe/ as typed values: what its outputs are on each platform, rendered by the engine that builds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock.solve import child_environment

RECIPE = "recipe/recipe.yaml"
VARIANTS = "recipe/variants.yaml"
WHAT = "the recipe"


@dataclass(frozen=True)
class Output:
    """One package that the recipe builds on `platform` (conda subdir), for one value of the key `device`."""

    platform: str
    device: str
    name: str
    version: str
    build: str
    run: tuple[str, ...]
    constraints: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """The rendered recipe; `context` are its own variables, with the line that each stands on."""

    outputs: tuple[Output, ...]
    context: dict[str, str]
    lines: dict[str, int]


def read_recipe(root: Path, platforms: Sequence[str]) -> Recipe:
    """Render the recipe of the project at `root` for `platforms`.

    Raises InputError with the renderer's reason, also when the renderer crashed.
    """
    data, lines = yamlfile.load(root / RECIPE, WHAT)
    context = data.get("context") if isinstance(data, dict) else None
    if not isinstance(context, dict):
        raise InputError(f"{root / RECIPE}:1: expected {WHAT}, with a mapping under 'context'", "restore the file")
    request = {"recipe": str(root / RECIPE), "variants": str(root / VARIANTS), "platforms": list(platforms)}
    child = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.check.rendered_recipe"],
        input=json.dumps(request), capture_output=True, text=True, check=False, env=child_environment(),
    )  # fmt: skip
    try:
        answer = json.loads(child.stdout)
    except json.JSONDecodeError:
        answer = {"error": f"the renderer ended with code {child.returncode}: {child.stderr.strip()[-500:]}"}
    if "error" in answer:
        raise InputError(f"{root / RECIPE}: can't be rendered: {answer['error']}", "mend the recipe")
    outputs = tuple(
        Output(**{**item, "run": tuple(item["run"]), "constraints": tuple(item["constraints"])})
        for item in answer["outputs"]
    )
    texts = {str(key): str(value) for key, value in context.items()}
    return Recipe(outputs, texts, {key: lines.of("context", key) for key in texts})


def _render(request: dict) -> list[dict]:
    from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

    recipe = Stage0Recipe.from_file(request["recipe"])
    variants = VariantConfig.from_file(request["variants"])
    found = []
    for platform in request["platforms"]:
        config = PlatformConfig(target_platform=platform, build_platform=platform, host_platform=platform)
        for rendered in recipe.render(variants, RenderConfig(config)):
            content = rendered.recipe.to_dict()
            requirements = content.get("requirements") or {}
            found.append(
                {
                    "platform": platform,
                    "device": str(rendered.variant.get("device")),
                    "name": content["package"]["name"],
                    "version": str(content["package"]["version"]),
                    "build": str(content["build"]["string"]),
                    "run": requirements.get("run", []),
                    "constraints": requirements.get("run_constraints", []),
                }
            )
    return found


def main() -> None:
    """Read a request on standard input, write the answer on standard output."""
    request = json.load(sys.stdin)
    try:
        answer = {"outputs": _render(request)}
    except Exception as error:  # whatever the renderer raises is what is wrong with the recipe
        answer = {"error": str(error).strip() or type(error).__name__}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # past the engine's threads


if __name__ == "__main__":
    main()
