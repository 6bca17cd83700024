"""Signatures by OpenSSH (`ssh-keygen -Y`), which every cluster has. Python's standard library only.

Signed is the bundle's tail: the code that starts it and the manifest, which stands for every other byte.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError, VerificationError
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.bundle.container import Bundle

NAMESPACE = "cogvideo-sat-env-bundle"
_REMEDY = "take the bundle only from somebody whose key is in your signers file"


def signature_path(bundle: Path) -> Path:
    """Return where the signature of a bundle lies: beside it."""
    return bundle.with_name(f"{bundle.name}.sig")


def sign(bundle: Bundle, key: Path) -> Path:
    """Sign with a private key (ssh-keygen may ask for its passphrase); return the signature's path."""
    with scratch_folder("satenv-sign-") as scratch:
        tail = Path(scratch) / "tail"
        tail.write_bytes(bundle.tail)
        done = _run(["-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(tail)], None)
        if done.returncode != 0:
            raise InputError(f"{key}: ssh-keygen can't sign with it: {_said(done)}", "name a private key with --sign")
        path = signature_path(bundle.path)
        path.write_bytes(Path(f"{tail}.sig").read_bytes())
        return path


def check(bundle: Bundle, signers: Path, identity: str | None = None) -> str:
    """Return who signed the bundle. `signers` is an allowed-signers file, `identity` the one who must have signed.

    Raises VerificationError when the bundle isn't signed, or by somebody else; InputError without a signers file.
    """
    if not signers.is_file():
        raise InputError(f"{signers}: no such file; expected a file of allowed signers", "see man ssh-keygen")
    path = signature_path(bundle.path)
    if not path.is_file():
        raise VerificationError(f"{bundle.path}: is not signed: {path.name} is missing", _REMEDY)
    if identity is None:
        found = _run(["-Y", "find-principals", "-s", str(path), "-f", str(signers)], None)
        names = found.stdout.decode("utf-8", "replace").split()
        if found.returncode != 0 or not names:
            raise VerificationError(f"{path}: nobody in {signers} has signed this ({_said(found)})", _REMEDY)
        identity = names[0]
    done = _run(["-Y", "verify", "-f", str(signers), "-I", identity, "-n", NAMESPACE, "-s", str(path)], bundle.tail)
    if done.returncode != 0:
        raise VerificationError(
            f"{bundle.path}: the signature isn't {identity}'s for these bytes: {_said(done)}", _REMEDY
        )
    return identity


def _run(arguments: list[str], content: bytes | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=content, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingToolError("ssh-keygen is not on this machine; it checks signatures", "install OpenSSH") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    words = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return words[-1] if words else f"exit code {done.returncode}"
