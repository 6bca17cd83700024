"""The running Python as the `python` package: the layout of a virtual environment, which finds its base by itself."""

from __future__ import annotations

from pathlib import Path

from cogvideo_sat_env.source.wheels.interpreter import Interpreter

BUILD = "running_0"


def lay_out_python(python: Interpreter, stage: Path) -> None:
    """Write bin/python*, pyvenv.cfg and site-packages into the empty folder `stage`.

    The links lead to this machine's interpreter: the package is good for this machine only.
    """
    (stage / "bin").mkdir(parents=True)
    versioned = f"python{python.minor}"
    (stage / "bin" / versioned).symlink_to(python.base)
    for name in ("python3", "python"):
        (stage / "bin" / name).symlink_to(versioned)
    (stage / "pyvenv.cfg").write_text(
        f"home = {python.base.parent}\ninclude-system-site-packages = false\nversion = {python.version}\n"
        f"executable = {python.base}\n",
        encoding="utf-8",
    )
    site = stage / python.site_packages
    site.mkdir(parents=True)
    (site / "README.txt").write_text("Modules of this environment; the standard library is the base Python's.\n")
