"""An address that may hold a secret: a login, a conda token, a signed query, or variables that stand for them.

As text, in JSON, in a pickle and in every message it is the public form; the real one is had by `reveal()` alone, which
belongs where a request is made and nowhere else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from cogvideo_sat_env.base.errors import InputError

_VARIABLE = r"\$(?:[A-Za-z0-9_]+|\{[^}]*\})"  # as posixpath.expandvars, which conda-lock fills them with
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL
)
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
_PASSWORD = "%!$&'()*+,;=-._~"  # what needs no encoding in one
_LOGIN = f"{_PASSWORD}:{{}}"
_TOKEN = re.compile(r"/+t/+(?P<token>[^/]+)(?=/|$)")


class Address(str):
    """The public form as text: without login, `/t/TOKEN`, query and fragment; `$VAR` and `${VAR}` stay unfilled."""

    __slots__ = ("_real",)
    _real: str

    def __new__(cls, text: str) -> Address:
        """Take `text` as it stands in a lock or on the command line; an Address is returned as it is."""
        if isinstance(text, Address):
            return text
        real = _normal(text)
        self = super().__new__(cls, _public(real))
        self._real = real
        return self

    def reveal(self) -> str:
        """Return the address to ask, with its secrets, variables filled from the environment. For requests only.

        Raises InputError naming the variables that aren't set.
        """
        parts = _PARTS.fullmatch(self._real)
        if not parts or "$" not in self._real or parts["scheme"] == "file":
            return self._real
        missing = [name for name in self.variables() if not os.environ.get(name)]
        if missing:
            verb = "isn't" if len(missing) == 1 else "aren't"
            raise InputError(
                f"{self}: needs {', '.join(missing)} from the environment, which {verb} set",
                f"export {' '.join(f'{name}=…' for name in missing)}; or take the files from a mirror of your own",
            )
        login, at, host = parts["authority"].rpartition("@")
        user, colon, password = login.partition(":")
        filled = f"{_fill(user, quoted=True)}{colon}{_fill(password, quoted=True)}{at}{_fill(host)}"
        return f"{parts['scheme']}://{filled}{_fill(parts['path'])}{_fill(parts['rest'])}"

    def variables(self) -> list[str]:
        """Return the names of the environment variables that the address is written with."""
        names = (found.strip("${}") for found in re.findall(_VARIABLE, self._real))
        return list(dict.fromkeys(name for name in names if re.fullmatch(r"[A-Za-z0-9_]+", name)))

    def __truediv__(self, path: str) -> Address:
        """Return the address of `path` (encoded as addresses are) below this one; a query goes with it."""
        parts = _PARTS.fullmatch(self._real)
        if not parts:
            return Address(f"{self._real.rstrip('/')}/{path}")
        return Address(f"{parts['scheme']}://{parts['authority']}{parts['path'].rstrip('/')}/{path}{parts['rest']}")

    def secrets(self) -> list[str]:
        """Return what stands in the address and not in its public form: for who must prove that it's nowhere."""
        parts = _PARTS.fullmatch(self._real)
        if not parts or parts["scheme"] == "file":
            return []
        login = parts["authority"].rpartition("@")[0]
        query = parts["rest"].partition("#")[0].removeprefix("?")
        found = [*login.split(":", 1), *(token["token"] for token in _TOKEN.finditer(parts["path"])), query]
        return [word for word in found if word and not re.fullmatch(_VARIABLE, word) and word not in str(self)]

    def package(self) -> tuple[Address, str, str]:
        """Split a package's address into channel, subdir and file name (decoded: solvers differ on `!` and `%21`)."""
        parts = _PARTS.fullmatch(self._real)
        head, path, rest = ("", self._real, "") if not parts else (
            f"{parts['scheme']}://{parts['authority']}", parts["path"], parts["rest"]
        )  # fmt: skip
        base, _, file_name = path.rpartition("/")
        channel, _, subdir = base.rpartition("/")
        return Address(f"{head}{channel}{rest.partition('#')[0]}"), subdir, unquote(file_name)

    def __repr__(self) -> str:
        """Return the public form, quoted."""
        return repr(str(self))

    def __reduce__(self) -> tuple[type[Address], tuple[str]]:
        """Leave the secret out of pickles."""
        return Address, (str(self),)

    def __deepcopy__(self, _: object = None) -> Address:
        """Return the same address: it never changes."""
        return self

    __copy__ = __deepcopy__


def local_path(url: str) -> Path:
    """Return the path that a file: address stands for."""
    return Path(unquote(urlsplit(url).path))


def _normal(text: str) -> str:
    """Return `text` with the scheme in lower case, and what should have been encoded in a password encoded."""
    parts = _PARTS.fullmatch(text)
    if not parts:
        return text
    rest = text[len(parts["scheme"]) + 3 :]
    if "@" in rest and "@" not in parts["authority"] and not _HOST.fullmatch(parts["authority"]):
        login, _, place = rest.rpartition("@")
        rest = f"{quote(login, safe=_LOGIN)}@{place}"
    return f"{parts['scheme'].lower()}://{rest}"


def _public(text: str) -> str:
    parts = _PARTS.fullmatch(text)
    if not parts:
        login, at, _ = text.partition("/")[0].rpartition("@")
        return text[len(login) + 1 :] if at and ":" in login else text
    scheme, authority, path = parts["scheme"], parts["authority"], parts["path"]
    if scheme == "file":
        return f"file://{authority.rpartition('@')[2]}{path}"
    login, at, host = authority.rpartition("@")
    words = login.split(":", 1)
    kept = f"{login}@" if at and any(words) and all(not w or re.fullmatch(_VARIABLE, w) for w in words) else ""
    path = _TOKEN.sub(lambda found: found[0] if re.fullmatch(_VARIABLE, found["token"]) else "", path)
    return f"{scheme}://{kept}{host}{path}"


def _fill(text: str, quoted: bool = False) -> str:
    def value(found: re.Match[str]) -> str:
        known = os.environ.get(found[0].strip("${}"))
        if known is None:
            return found[0]
        return quote(known, safe=_PASSWORD) if quoted else known

    return re.sub(_VARIABLE, value, text)
