"""Channels on a package server over HTTP: prefix.dev, quetz, Artifactory, anaconda.org; they index themselves."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.package.publish.built import BuiltPackage
from cogvideo_sat_env.package.publish.uploader import do

KEYS = {  # where rattler-build looks for a key before it looks into the rattler auth file
    "prefix": "PREFIX_API_KEY",
    "quetz": "QUETZ_API_KEY",
    "artifactory": "ARTIFACTORY_TOKEN",
    "anaconda": "ANACONDA_API_KEY",
}
_HOSTS = {"prefix.dev": "prefix", "repo.prefix.dev": "prefix", "anaconda.org": "anaconda"}


class Server:
    """Packages are sent one by one with rattler-build's own uploaders."""

    def __init__(self, url: str, kind: str | None) -> None:
        """Take the channel's address (its last part is the channel) and the kind of server behind it."""
        parts = urlsplit(url)
        if parts.username or parts.password or "/t/" in parts.path:
            raise InputError(
                "the target's address holds credentials: it would be kept in your shell's history",
                f"put them in RATTLER_AUTH_FILE or in one of {', '.join(KEYS.values())}",
            )
        kind = kind or _HOSTS.get(parts.hostname or "")
        if kind is None:
            raise InputError(f"{url}: what kind of server is that?", f"say --server {'|'.join(KEYS)}")
        if kind == "anaconda" and parts.hostname != "anaconda.org":
            raise InputError(f"{url}: not anaconda.org", "write https://anaconda.org/OWNER or …/OWNER/LABEL")
        path = [part for part in parts.path.split("/") if part]
        if not path:
            raise InputError(f"{url}: names no channel", "write the server's address, '/' and the channel")
        self.name, self.kind = url, kind
        if kind == "anaconda":
            self._base, self._channel, self._label = "", path[0], (path[1:] or ["main"])[0]
            self._read = f"https://conda.anaconda.org/{path[0]}" + (f"/label/{path[1]}" if path[1:] else "")
            return
        self._base = f"{parts.scheme}://{parts.netloc}" + "".join(f"/{part}" for part in path[:-1])
        self._channel, self._label = path[-1], ""
        self._read = f"{self._base}/get/{self._channel}" if kind == "quetz" else f"{self._base}/{self._channel}"

    @property
    def _remedy(self) -> str:
        return f"check the address, the key (RATTLER_AUTH_FILE or {KEYS[self.kind]}) and its rights; then run again"

    def digests(self, packages: Sequence[BuiltPackage]) -> dict[str, str]:
        """Return the SHA-256 that the server's index tells. Raises SourceError when it can't be asked."""
        request = {
            "do": "list",
            "channel": self._read,
            "names": sorted({package.name for package in packages}),
            "subdirs": sorted({package.subdir for package in packages} | {"noarch"}),
        }
        found = do(request, f"reading {self._read}", self._remedy)["digests"]
        return {package.key: found[package.key] for package in packages if package.key in found}

    def upload(self, packages: Sequence[BuiltPackage], replaced: bool, progress: Progress) -> None:
        """Send the packages. Raises SourceError with the server's answer, InputError for what it can't do."""
        if replaced and self.kind == "quetz":
            raise InputError("quetz takes no other bytes under a name it has", "delete the package there first")
        with progress.task(f"Uploading to {self.name}", sum(p.size for p in packages), "bytes") as task:
            for package in packages:
                task.note(package.key)
                request = {
                    "do": "upload", "kind": self.kind, "file": str(package.path), "url": self._base,
                    "channel": self._channel, "label": self._label, "key_variable": KEYS[self.kind],
                    "force": replaced,
                }  # fmt: skip
                do(request, f"{self.name}: {package.key} was not taken", self._remedy)
                task.advance(package.size)
