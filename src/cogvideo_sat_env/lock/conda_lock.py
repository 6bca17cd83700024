"""conda-lock's own library, as far as we need it: content hashes, merging and writing its format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

import yaml

from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import conda_lock_lookup
from cogvideo_sat_env.spec.variants import Variant, render_environment

HEADER = """\
# Lock of cogvideo-sat-env in conda-lock's format, made by `scripts/satenv lock`; don't edit.
# Every package with URL and SHA-256, for: {platforms}.
#
#   conda-lock install -n cogvideo-sat {name}
#
# pip packages lie below ${{SATENV_WHEELHOUSE}}, a folder (file://...) or site of yours that pip expands:
#   pip download --no-deps --require-hashes -r locks/pip-linux-64.txt -d wheelhouse
#   export SATENV_WHEELHOUSE="file://$PWD/wheelhouse"
"""


def content_hash(environment: Environment, variant: Variant) -> str:
    """Return conda-lock's hash of what was asked for: specs, channels, virtual packages."""
    from conda_lock.conda_lock import make_lock_spec  # a second to import: only where it is needed
    from conda_lock.content_hash import compute_content_hashes
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    with scratch_folder("satenv-hash-") as work:
        # the comments don't count, so the primary file may be rendered anew as well
        (work / "environment.yml").write_text(render_environment(environment, variant), encoding="utf-8")
        (work / "virtual-packages.yml").write_text(render_virtual_packages(variant), encoding="utf-8")
        (work / "names.json").write_text(json.dumps(conda_lock_lookup()), encoding="utf-8")
        spec = make_lock_spec(
            src_files=[work / "environment.yml"],
            platform_overrides=[variant.platform],
            mapping_url=(work / "names.json").as_uri(),
        )
        repo = virtual_package_repo_from_specification(work / "virtual-packages.yml")
        found = compute_content_hashes(spec, repo)[variant.platform]
        shutil.rmtree(repo.base_path, ignore_errors=True)  # conda-lock would do it when this process ends by itself
        return found


def merge(contents: Sequence[dict]) -> dict:
    """Merge the locks of several platforms into one, sorted as conda-lock sorts."""
    first = contents[0]
    packages = [entry for content in contents for entry in content["package"]]
    packages.sort(key=lambda entry: (entry["manager"], entry["name"], entry["platform"]))
    for entry in packages:
        entry["dependencies"] = dict(sorted((entry.get("dependencies") or {}).items()))
    metadata = {
        "content_hash": {k: v for content in contents for k, v in sorted(content["metadata"]["content_hash"].items())},
        "channels": first["metadata"]["channels"],
        "platforms": [platform for content in contents for platform in content["metadata"]["platforms"]],
        "sources": [source for content in contents for source in content["metadata"]["sources"]],
    }
    return {"version": 1, "metadata": metadata, "package": packages}


def only(content: dict, platform: str) -> dict:
    """Return the part of a lock for one platform."""
    metadata = content["metadata"]
    position = metadata["platforms"].index(platform)
    return {
        "version": 1,
        "metadata": {
            "content_hash": {platform: metadata["content_hash"][platform]},
            "channels": metadata["channels"],
            "platforms": [platform],
            "sources": [metadata["sources"][position]],
        },
        "package": [entry for entry in content["package"] if entry["platform"] == platform],
    }


def dump(content: dict, name: str, header: str = HEADER) -> str:
    """Return the text of a lock file called `name`; `header` may name {platforms} and {name}."""
    header = header.format(platforms=", ".join(content["metadata"]["platforms"]), name=name)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return header + yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)


def render_virtual_packages(variant: Variant) -> str:
    """Return the virtual packages of a variant in conda-lock's format."""
    content = {"subdirs": {variant.platform: {"packages": dict(variant.virtual_packages)}}}
    return (
        f"# The machine that {variant.id} is locked for; from src/cogvideo_sat_env/data/variants.yml.\n"
        "# For conda-lock: --virtual-package-spec (its own default __cuda is 11.4).\n"
    ) + yaml.safe_dump(content, sort_keys=True)
