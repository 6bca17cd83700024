"""What recipe/ has from elsewhere, as texts by path: `lock` writes them, `check` compares.

The metapackage's requirements come from environment.yml and the ledger, versions and hashes of the pieces from locks/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.spec.breakage import Ledger
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import Variant, derive

RECIPE = "recipe/recipe.yaml"
PINS = "recipe/pins.txt"
OWN = ("pyyaml",)  # what the metapackage's own command imports beyond environment.yml
_BLOCK = re.compile(
    r"^(?P<head>(?P<indent> *)# >>> (?P<device>cuda|cpu): [^\n]*\n)(?:(?!# >>>).)*?^ *# <<<$", re.M | re.S
)
_VERSION_OF = re.compile(r"^[^=]*==|\s.*$")  # what stands around the version in a pin
_VERSION = re.compile(r'^(?P<head>  (?:(?P<piece>\w+)_)?version: )"[^"\n]*"', re.M)


def recipe_files(
    root: Path, environment: Environment, variants: Sequence[Variant], ledger: Ledger, pins: Iterable[PipPin]
) -> dict[str, str]:
    """Return recipe.yaml of the project at `root` with its generated parts made anew, and pins.txt.

    `pins` are those of all variants' locks; of a piece that several lock, the first one's file is taken. A piece that
    all locks take from conda stays as it was pinned last: the recipe builds it for channels that lack it.
    Raises InputError when the recipe can't be read, lacks a generated part, or builds a piece that no lock has.
    """
    path = root / RECIPE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"{path}: {reason}; expected the recipe", "restore the file, e.g. with git") from error
    devices = {match["device"] for match in _BLOCK.finditer(text)}
    for device in {variant.device for variant in variants} - devices:
        raise InputError(f"{path}: no generated part '# >>> {device}: …' up to '# <<<'", "restore it, e.g. with git")
    requirements = {
        variant.id: wanted_specs(derive(environment, variant, root / variant.environment), variant)
        for variant in variants
    }
    # the first pin of a name is the last to be set
    known = _pinned(root / PINS) | {canonicalize_name(p.name): p.requirement() for p in reversed(list(pins))}
    used: dict[str, str] = {}

    def version(match: re.Match[str]) -> str:
        name = canonicalize_name(match["piece"] or "")
        if name and name not in known:
            line = text.count("\n", 0, match.start()) + 1
            raise InputError(
                f"{path}:{line}: {match['piece']}_version: no pip lock (locks/pip-*.txt) has {name}",
                "take its output out of the recipe, or add it to environment.yml and relock",
            )
        if name:
            used[name] = known[name]
        return f'{match["head"]}"{_VERSION_OF.sub("", known[name]) if name else __version__}"'

    def block(match: re.Match[str]) -> str:
        here = [variant for variant in variants if variant.device == match["device"]]
        lines = ["run:", *_listed({v.platform: requirements[v.id] for v in here})]
        bounds = {v.platform: constraints(v, requirements[v.id], ledger) for v in here}
        if any(bounds.values()):
            lines += ["run_constraints:", *_listed(bounds)]
        indent = match["indent"]
        return match["head"] + "".join(f"{indent}{line}\n" for line in lines) + f"{indent}# <<<"

    text = _BLOCK.sub(block, _VERSION.sub(version, text))
    head = "# The file of PyPI that each package of recipe/ is made from; generated from locks/ by `satenv lock`\n"
    return {RECIPE: text, PINS: head + "".join(f"{used[name]}\n" for name in sorted(used))}


def _pinned(path: Path) -> dict[str, str]:
    """Return the lines of pins.txt by name; none where it can't be read: it is made anew from the locks."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = (re.match(r"([a-z0-9-]+)==\S+ --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    return {match[1]: match[0] for match in found if match}


def wanted_specs(environment: Environment, variant: Variant) -> list[str]:
    """Return what the metapackage asks for: the environment's specs by conda name, its pip part included."""
    # the driver that a CUDA build needs: minor versions of one major are compatible
    cuda = variant.virtual_packages.get("__cuda", "12").partition(".")[0]
    specs = [f"__cuda >={cuda}"] if variant.device == "cuda" else []
    specs += [*OWN, *(str(spec) for spec in environment.conda)]
    return specs + [f"{load_names().to_conda(spec.name)} {spec.specifier}".strip() for spec in environment.pip]


def constraints(variant: Variant, specs: Sequence[str], ledger: Ledger) -> list[str]:
    """Return the ledger's bounds on what the variant doesn't require, but may get from elsewhere."""
    required = {spec.split()[0] for spec in specs}
    bounds: dict[str, list[str]] = {}
    for entry in ledger.entries:
        name = load_names().to_conda(entry.package) if entry.pypi_name else entry.package
        if name not in required and "_linux-" not in name:  # a compiler's part for another platform
            bounds.setdefault(name, []).append(entry.bound)
    found = [f"{name} {','.join(clauses)}" for name, clauses in bounds.items()]
    if variant.device == "cpu" and variant.platform.startswith("linux"):
        # without a driver it is void; with one that is too old it says why the CUDA build isn't taken
        found.append("__cuda >=12")
    return found


def _listed(specs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of one YAML list: what all platforms have plainly, the rest by platform."""
    order = list(dict.fromkeys(spec for group in specs.values() for spec in group))
    lines: list[str] = []
    for spec in order:
        platforms = [platform for platform, group in specs.items() if spec in group]
        if len(platforms) == len(specs):
            lines.append(f"  - {spec}")
    for platform, group in specs.items():
        own = [spec for spec in group if f"  - {spec}" not in lines]
        if own:
            lines += [f'  - if: target_platform == "{platform}"', "    then:", *(f"      - {spec}" for spec in own)]
    return lines
