"""recipe/ as typed values: what its outputs are on each platform, rendered by the engine that builds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.child import answer, ask
from cogvideo_sat_env.base.errors import InputError

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
    found = ask("check.rendered_recipe", request, "the renderer")
    if "error" in found:
        raise InputError(f"{root / RECIPE}: can't be rendered: {found['error']}", "mend the recipe")
    outputs = tuple(
        Output(**{**item, "run": tuple(item["run"]), "constraints": tuple(item["constraints"])})
        for item in found["outputs"]
    )
    texts = {str(key): str(value) for key, value in context.items()}
    return Recipe(outputs, texts, {key: lines.of("context", key) for key in texts})


def _render(request: dict) -> dict:
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
    return {"outputs": found}


if __name__ == "__main__":
    answer(_render)
