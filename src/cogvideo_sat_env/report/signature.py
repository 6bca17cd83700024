"""Signatures by OpenSSH (`ssh-keygen -Y`), which every cluster has. Python's standard library only: bundles carry it.

One way for all that is signed: FILE.sig beside FILE, in the namespace of its kind. Of a bundle its tail is signed: the
code that starts it and the manifest, which stands for every other byte. Of a statement, all of it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError, VerificationError
from cogvideo_sat_env.base.scratch import scratch_folder

BUNDLE, STATEMENT = "bundle", "statement"
_REMEDY = "take it only from somebody whose key is in your signers file"


def namespace(kind: str) -> str:
    """Return what a signers file may limit a key to; `cogvideo-sat-env-*` there admits all kinds."""
    return f"cogvideo-sat-env-{kind}"


def signature_path(path: Path) -> Path:
    """Return where the signature of a file lies: beside it."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, content: bytes, key: Path, kind: str = BUNDLE) -> Path:
    """Sign `content`, which stands for the file at `path`, with a private key; return the signature's path.

    ssh-keygen may ask for the key's passphrase. Raises InputError, MissingToolError.
    """
    if not key.is_file():
        raise InputError(f"{key}: no such file; expected a private key", "name one of OpenSSH's with --sign")
    with scratch_folder("satenv-sign-") as scratch:
        signed = Path(scratch) / "content"
        signed.write_bytes(content)
        done = _run(["-Y", "sign", "-n", namespace(kind), "-f", str(key), str(signed)], None)
        if done.returncode != 0:
            raise InputError(f"{key}: ssh-keygen can't sign with it: {_words(done)}", "name a private key with --sign")
        place = signature_path(path)
        place.write_bytes(Path(f"{signed}.sig").read_bytes())
        return place


def check(path: Path, content: bytes, signers: Path, identity: str | None = None, kind: str = BUNDLE) -> str:
    """Return who signed `content`, which stands for the file at `path`, in the signature beside it.

    `signers` is an allowed-signers file, `identity` the one who must have signed. Raises VerificationError when it
    isn't signed, or by somebody else; InputError without a signers file.
    """
    if not signers.is_file():
        raise InputError(f"{signers}: no such file; expected a file of allowed signers", "see man ssh-keygen")
    place = signature_path(path)
    if not place.is_file():
        raise VerificationError(f"{path}: is not signed: {place.name} is missing", _REMEDY)
    if identity is None:
        found = _run(["-Y", "find-principals", "-s", str(place), "-f", str(signers)], None)
        names = found.stdout.decode("utf-8", "replace").split()
        if found.returncode != 0 or not names:
            raise VerificationError(f"{place}: nobody in {signers} has signed this ({_words(found)})", _REMEDY)
        identity = names[0]
    command = ["-Y", "verify", "-f", str(signers), "-I", identity, "-n", namespace(kind), "-s", str(place)]
    done = _run(command, content)
    if done.returncode != 0:
        raise VerificationError(f"{path}: the signature isn't {identity}'s for these bytes: {_words(done)}", _REMEDY)
    return identity


def _run(arguments: list[str], content: bytes | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=content, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingToolError("ssh-keygen is not on this machine; it checks signatures", "install OpenSSH") from error


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
