"""A thin copy of a good environment, to be broken: its packages are links, its Python a venv on the same interpreter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cogvideo_sat_env import doctor

_FACTS = """
import json, sys, sysconfig
print(json.dumps({"site": sysconfig.get_path("purelib"), "version": "%d.%d" % sys.version_info[:2]}))
"""


class Overlay:
    """The copy in `root` of the environment `good`. Nothing that is done to it reaches the original."""

    def __init__(self, good: Path, root: Path) -> None:
        self.root = root
        python = good / "bin" / "python"
        facts = json.loads(subprocess.check_output([python, "-I", "-c", _FACTS], text=True))
        self.version: str = facts["version"]
        subprocess.run([python, "-m", "venv", "--without-pip", "--symlinks", root], check=True)
        self.site = root / "lib" / f"python{self.version}" / "site-packages"
        for entry in Path(facts["site"]).iterdir():
            (self.site / entry.name).symlink_to(entry)
        for entry in (good / "bin").iterdir():  # ninja, ffmpeg, the compiler
            if not (root / "bin" / entry.name).exists():
                (root / "bin" / entry.name).symlink_to(entry)
        if (good / "pyvenv.cfg").is_file():  # the environment is a venv itself: then that file is one of its own
            (root / "pyvenv.cfg").unlink()
        # the rest of what conda's records name, so that the copy is whole byte for byte
        for folder in (".", "lib", f"lib/python{self.version}", "include"):
            for entry in (good / folder).iterdir() if (good / folder).is_dir() else []:
                if not (root / folder / entry.name).exists():
                    (root / folder / entry.name).symlink_to(entry)

    @classmethod
    def bare(cls, good: Path, root: Path) -> Path:
        """Return a prefix in `root` with the programs of `good` and its very packages, but without activation."""
        (root / "bin").mkdir(parents=True)
        for entry in (good / "bin").iterdir():
            if not entry.name.startswith("python"):
                (root / "bin" / entry.name).symlink_to(entry)
        (root / "bin" / "python").write_text(f'#!/bin/sh\nexec "{good}/bin/python" "$@"\n')
        (root / "bin" / "python").chmod(0o755)
        return root

    def remove(self, *names: str) -> None:
        """Take away entries of site-packages whose name starts so: the package, its libraries, its metadata."""
        for entry in list(self.site.iterdir()):
            if any(re.fullmatch(rf"{name}(\.libs|-[\d.]+.*)?", entry.name, re.IGNORECASE) for name in names):
                entry.unlink()

    def own(self, path: str) -> Path:
        """Make the file or folder `path` (below the prefix) the copy's own, so that it can be changed; return it."""
        parts = Path(path).parts
        for depth in range(1, len(parts) + 1):
            place = self.root.joinpath(*parts[:depth])
            if not place.is_symlink():
                continue
            real = place.resolve()
            place.unlink()
            if not real.is_dir():
                shutil.copy2(real, place)
                continue
            place.mkdir()
            for entry in real.iterdir():
                (place / entry.name).symlink_to(entry)
        return self.root / path

    def install(self, name: str, version: str, into: Path | None = None) -> None:
        """Put the real wheel of another version in the package's place, from the configured package index."""
        if into is None:
            self.remove(name)
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--only-binary=:all:", "--python-version", self.version, "--target", str(into or self.site),
                f"{name}=={version}",
            ],
            check=True,
        )  # fmt: skip


def examine(overlay: Overlay, check: str, **options: object) -> doctor.CheckResult:
    """Run one check in the copy; `options` are settings of checks, with _ for the dot."""
    named = {name.replace("_", ".", 1): value for name, value in options.items()}
    (result,) = doctor.run(overlay.root, doctor.Conditions(options=named), only=[check]).results
    return result


def patch(overlay: Overlay, path: str, old: str, new: str) -> None:
    """Change a file of the copy's packages."""
    place = overlay.own(f"lib/python{overlay.version}/site-packages/{path}")
    text = place.read_text()
    assert old in text, f"{old!r} is not in {path}"
    place.write_text(text.replace(old, new, 1))
