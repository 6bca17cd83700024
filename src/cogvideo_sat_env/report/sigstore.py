"""Signatures by an identity in place of a key, where sigstore's services can be reached: FILE.sigstore.json."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cogvideo_sat_env.base.errors import SourceError, VerificationError
from cogvideo_sat_env.base.tool_sets import tool_set


def bundle_path(path: Path) -> Path:
    """Return where sigstore's signature of a file lies: beside it."""
    return path.with_name(f"{path.name}.sigstore.json")


def sign(path: Path) -> Path:
    """Sign a file with the identity of the machine (in a workflow) or of the user (a browser opens).

    Raises MissingToolError without sigstore, SourceError when its services can't be reached or refuse.
    """
    out = bundle_path(path)
    done = _run(["sign", "--overwrite", "--bundle", str(out), str(path)])
    if done.returncode != 0 or not out.is_file():
        raise SourceError(f"{path}: sigstore can't sign it: {_words(done)}", "sign with a key: --sign KEY")
    return out


def check(path: Path, identity: str, issuer: str) -> str:
    """Return the identity that signed a file. Raises VerificationError, MissingToolError."""
    bundle = bundle_path(path)
    if not bundle.is_file():
        raise VerificationError(
            f"{path}: is not signed: {bundle.name} is missing", "have it from where the file is from"
        )
    done = _run(["verify", "identity", "--bundle", str(bundle), "--cert-identity", identity, "--cert-oidc-issuer",
                 issuer, str(path)])  # fmt: skip
    if done.returncode != 0:
        raise VerificationError(f"{path}: sigstore doesn't find that {identity} signed it: {_words(done)}", None)
    return identity


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    python = tool_set("sigstore", "sigstore, which signs with an identity") / "bin" / "python"
    command = [str(python), "-I", "-m", "sigstore", *arguments]
    return subprocess.run(  # its messages are for a terminal: none is to be broken into lines
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "1000"}
    )


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [" ".join(line.split()) for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line.partition("ERROR ")[2] for line in lines if "ERROR " in line]
    return (errors or lines or [f"exit code {done.returncode}"])[0]
