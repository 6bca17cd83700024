"""The manifest of a prefix: path, kind, mode, size and SHA-256 of all that is in it, the same for the same environment.

prefix_rules.py says what is normalised in files, code_hashes.py in bytecode. Of the mode only what no umask takes away
counts: whether the owner may execute a file; setuid and setgid bits of files do, too. A size is that of what was
hashed. A link's target stands in place of the SHA-256.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, SatenvError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.report.prefix_rules import Prefix, is_running, open_prefix

FIRST = "cogvideo-sat-env manifest"
FORMAT = 1
_FACTS = ("platform", "python", "running_python", "lock", "lock_sha256")
_CODE = Path(__file__).with_name("code_hashes.py")
_BZ2 = b"BZh"  # for SHA-256s in hex it is smaller than xz or zstd, and much faster
_WRITE = satenv("manifest PREFIX -o FILE")
_MOST = 1 << 28  # bytes of a manifest: 256 MiB are some 2 million files


@dataclass(frozen=True)
class ManifestEntry:
    """One path. `kind` is folder, file, bytecode, link or other; `digest` a SHA-256, or a link's target."""

    path: str
    kind: str
    mode: str = "-"
    size: int | None = None
    digest: str = "-"

    def line(self) -> str:
        """Return its line in the text: the path last, as JSON where it isn't plain."""
        return " ".join([self.kind, self.mode, str(self.size or 0) if self.size is not None else "-",
                         _quoted(self.digest), _quoted(self.path)])  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The entries by path, and what the environment was made from: platform, python, running_python, lock."""

    facts: Mapping[str, str]
    entries: Mapping[str, ManifestEntry]

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts; `read` takes that, too."""
        rows = [[e.path, e.kind, e.mode, e.size, e.digest] for e in self.entries.values()]
        return {"format": FORMAT, **self.facts, "entries": rows}

    def to_text(self) -> str:
        """Return it as text: facts, then a line for each path."""
        head = [f"{FIRST} {FORMAT}", *(f"{key}: {value}" for key, value in self.facts.items()), ""]
        return "\n".join([*head, *(entry.line() for entry in self.entries.values())]) + "\n"


@dataclass(frozen=True)
class Deviations:
    """What differs between a manifest and a prefix; `changed` says how. `skipped` is the bytecode of another Python."""

    total: int
    changed: Mapping[str, str]
    missing: Sequence[str]
    added: Sequence[str]
    notes: Sequence[str]
    skipped: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.changed or self.missing or self.added)

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {"same": self.same, "paths": self.total, "changed": dict(self.changed), "missing": list(self.missing),
                "added": list(self.added), "notes": list(self.notes), "not_compared": self.skipped}  # fmt: skip

    def to_text(self) -> str:
        """Return it for people: each path, then the sum."""
        lines = [f"note: {note}" for note in self.notes]
        lines += [f"changed: {path} ({how})" for path, how in self.changed.items()]
        lines += [f"missing: {path}" for path in self.missing] + [f"added: {path}" for path in self.added]
        count = len(self.changed) + len(self.missing) + len(self.added)
        lines.append(f"{count:,} of {self.total:,} paths differ" if count else f"{self.total:,} paths, all the same")
        return "\n".join(lines) + "\n"


def make(path: Path, *, full: bool, progress: Progress) -> Manifest:
    """Return the manifest of the environment at `path`.

    A file that is one with a package's in the cache, unchanged since its bytes were proven, isn't hashed again unless
    `full`. Raises InputError (no environment), MissingToolError (no Python for its bytecode), OSError.
    """
    prefix = open_prefix(path)
    found = sorted(_walk(prefix), key=lambda item: item[0])
    known = {} if full else _known(prefix)
    entries: dict[str, ManifestEntry] = {}
    code, plain = [], []
    for name, there in found:
        kind, mode = _kind(name, there), "0755" if there.st_mode & stat.S_IXUSR else "0644"
        if kind == "link":
            target = prefix.link(name, os.readlink(prefix.path / name))
            entries[name] = ManifestEntry(prefix.public(name), kind, digest=target)
        elif kind == "folder":
            entries[name] = ManifestEntry(name, kind, "0755")
        elif kind == "other":
            entries[name] = ManifestEntry(name, kind)
        else:
            special = there.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
            entries[name] = ManifestEntry(prefix.public(name), kind, f"{special >> 9}{mode[1:]}")
            fact = known.get((there.st_dev, there.st_ino)) if kind == "file" else None
            if fact is None or package_manifest.is_changed(there, fact[0], fact[1]):
                (code if kind == "bytecode" else plain).append((name, there.st_size))
            else:
                entries[name] = replace(entries[name], size=there.st_size, digest=fact[0][3])
    for name, (size, sha256) in _hash(prefix, plain, code, progress):
        entries[name] = replace(entries[name], size=size, digest=sha256)
    running = prefix.running_python
    about = {**(prefix.receipt or {}), "python": None if running else prefix.python, "running_python": running}
    facts = {key: str(about[key]) for key in _FACTS if about.get(key)}
    ordered = sorted(entries.values(), key=lambda entry: entry.path)
    return Manifest(facts, {entry.path: entry for entry in ordered})


def _hash(
    prefix: Prefix, plain: Sequence[tuple[str, int]], code: Sequence[tuple[str, int]], progress: Progress
) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield name, normalised size and SHA-256 of files; those given are names and sizes on the disk."""
    shares = _shares(code)
    total = sum(size for _, size in (*plain, *code))
    with (
        progress.task(f"Hashing {len(plain) + len(code):,} files", total, "bytes") as task,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,  # hashlib and processes let other threads run
    ):
        answers = pool.map(lambda share: _code(prefix, share), shares)
        for (name, size), answer in zip(plain, pool.map(lambda item: _plain(prefix, item[0]), plain), strict=True):
            yield name, answer
            task.advance(size)
        for share, found in zip(shares, answers, strict=True):
            for (name, size), answer in zip(share, found, strict=True):
                yield name, answer
                task.advance(size)


def _walk(prefix: Prefix) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and stat of everything in the prefix but the lock of a run that is at work on it."""
    name = prefix.path.absolute().name
    stack = [""]
    while stack:
        inside = stack.pop()
        with os.scandir(prefix.path / inside) as entries:
            for entry in entries:
                path = inside + entry.name
                if not path.startswith((f".{name}.satenv-", f".{name}.lock")):
                    yield path, entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(f"{path}/")


def _kind(name: str, found: os.stat_result) -> str:
    if stat.S_ISREG(found.st_mode):
        return "bytecode" if name.endswith(".pyc") else "file"
    return "link" if stat.S_ISLNK(found.st_mode) else "folder" if stat.S_ISDIR(found.st_mode) else "other"


def _known(prefix: Prefix) -> dict[tuple[int, int], tuple[list[Any], int]]:
    """Return what the cache's manifests say of the packages' plain files, by device and inode, and whose they are."""
    found = {}
    for record in prefix.records.values():
        folder = record.get("extracted_package_dir")
        if not isinstance(folder, str) or not folder or is_running(record):  # whose pyvenv.cfg is normalised
            continue
        manifest = package_manifest.manifest_path(Path(folder).parent, Path(folder).name)
        if (there := package_manifest.read(manifest)) is None or there.sha256 != record.get("sha256"):
            continue
        try:
            place = os.stat(folder)
            facts = package_manifest.plain_files(manifest)
        except (OSError, ValueError):
            continue
        found.update({(place.st_dev, fact[2]): (fact, place.st_uid) for fact in facts.values()})
    return found


def _plain(prefix: Prefix, name: str) -> tuple[int, str]:
    content = prefix.content(name)
    if content is None:
        return os.path.getsize(prefix.path / name), sha256_file(prefix.path / name)
    return len(content), hashlib.sha256(content).hexdigest()


def _shares(items: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    count = min(os.cpu_count() or 1, 1 + len(items) // 200)
    return [list(items[number::count]) for number in range(count)] if items else []


def _code(prefix: Prefix, share: Sequence[tuple[str, int]]) -> list[tuple[int, str]]:
    paths = [str(prefix.path / name) for name, _ in share]
    request = json.dumps({"prefixes": prefix.spellings, "paths": paths})
    # a bytecode file that isn't its source's could lie about itself: the interpreter reads sources only
    command = [*_python(prefix), "-I", "-S", "-B", "-X", "pycache_prefix=/dev/null", str(_CODE)]
    child = subprocess.run(command, input=request, capture_output=True, text=True, check=False, cwd="/")
    if child.returncode != 0:
        words = child.stderr.strip().splitlines() or [f"it ended with {child.returncode}"]
        raise SatenvError(
            f"{prefix.path}: its bytecode can't be read: {words[-1]}",
            f"repair it: {satenv('create --repair -p', prefix.path)}",
        )
    return [(size, sha256) for size, sha256 in json.loads(child.stdout)]


def _python(prefix: Prefix) -> list[str]:
    """Return the command of a Python whose bytecode is that of the prefix: this one, or the prefix's own."""
    minor = ".".join(prefix.python.split(".")[:2])
    if not minor or minor == ".".join(map(str, sys.version_info[:2])):
        return [sys.executable]
    own = str(prefix.path / "bin" / "python")
    try:
        subprocess.run([own, "-I", "-S", "-c", ""], check=True, capture_output=True, cwd="/")
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingToolError(
            f"{own}: can't be run here, and this program's Python isn't {minor}: its bytecode can't be read",
            f"run {satenv('manifest', prefix.path)} with SATENV_PYTHON=python{minor}",
        ) from error
    return [own]


def read(path: Path) -> Manifest:
    """Read the manifest in `path`: text, JSON, either packed with bzip2. Raises InputError."""
    try:
        return _parse(_unpacked(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a manifest", f"write one: {_WRITE}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path}: can't be read as a manifest of satenv's: {why}", f"write it again: {_WRITE}"
        ) from error


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if content[: len(_BZ2)] != _BZ2:
        return content
    unpacker = bz2.BZ2Decompressor()
    try:
        text = unpacker.decompress(content, max_length=_MOST)
    except OSError as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError("it is cut off" if len(text) < _MOST else "it is larger than any manifest")
    return text


def _parse(text: str) -> Manifest:
    if text.lstrip()[:1] == "{":
        found = json.loads(text)
        _require_format(found["format"])
        rows = [ManifestEntry(*row) for row in found["entries"]]
        facts = {key: str(found[key]) for key in _FACTS if key in found}
    else:
        head, _, body = text.partition("\n\n")
        first, *lines = head.splitlines() or [""]
        if not first.startswith(f"{FIRST} "):
            raise ValueError(f"its first line isn't '{FIRST} {FORMAT}'")
        _require_format(int(first[len(FIRST) :]))
        facts = dict(line.split(": ", 1) for line in lines)
        rows = [_entry(line) for line in body.splitlines()]
    if not all(type(row.path) is str and type(row.digest) is str for row in rows):
        raise ValueError("a path or a SHA-256 isn't text")
    entries = {row.path: row for row in rows}
    if len(entries) != len(rows):
        raise ValueError("a path stands twice")
    return Manifest(facts, entries)


def _require_format(found: object) -> None:
    if found != FORMAT:
        raise ValueError(f"it has format {found!r}; this program reads {FORMAT}")


def _entry(line: str) -> ManifestEntry:
    kind, mode, size, rest = line.split(" ", 3)
    if rest.startswith('"'):
        digest, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end + 1 :]
    else:
        digest, _, rest = rest.partition(" ")
    path = json.loads(rest) if rest.startswith('"') else rest
    return ManifestEntry(path, kind, mode, None if size == "-" else int(size), digest)


def _quoted(text: str) -> str:
    plain = text.isprintable() and not text.startswith('"') and " " not in text and text
    return text if plain else json.dumps(text)


def write(manifest: Manifest, path: Path) -> int:
    """Write `manifest` as text into `path`, packed where its name ends in .bz2; return the bytes. Raises OSError."""
    content = manifest.to_text().encode("utf-8")
    if path.suffix == ".bz2":
        content = bz2.compress(content)
    write_atomically(path, content)
    return len(content)


def compare(wanted: Manifest, found: Manifest) -> Deviations:
    """Return what of `found` isn't as in `wanted`.

    Bytecode that another running Python made is compared by its place only: two patch releases may compile otherwise.
    """
    notes = [
        f"{key}: {wanted.facts.get(key, 'none')} in the manifest, {found.facts.get(key, 'none')} in the environment"
        for key in _FACTS
        if wanted.facts.get(key) != found.facts.get(key)
    ]
    other = wanted.facts.get("running_python") != found.facts.get("running_python")
    changed, skipped = {}, 0
    for path, entry in wanted.entries.items():
        there = found.entries.get(path)
        if there is None or there == entry:
            continue
        if other and entry.kind == there.kind == "bytecode" and entry.mode == there.mode:
            skipped += 1
            continue
        changed[path] = _how(entry, there)
    if skipped:
        notes.append(f"{skipped:,} bytecode files differ, as those of another Python may: compared by their place only")
    missing = [path for path in wanted.entries if path not in found.entries]
    added = [path for path in found.entries if path not in wanted.entries]
    total = len(wanted.entries.keys() | found.entries.keys())
    return Deviations(total, changed, missing, added, notes, skipped)


def _how(wanted: ManifestEntry, found: ManifestEntry) -> str:
    pairs = {
        "kind": (wanted.kind, found.kind), "mode": (wanted.mode, found.mode),
        "target" if wanted.kind == found.kind == "link" else "SHA-256": (wanted.digest[:200], found.digest[:200]),
    }  # fmt: skip
    if wanted.size != found.size and wanted.kind == found.kind:
        pairs["size"] = (str(wanted.size), str(found.size))
    return ", ".join(f"{what} {old} -> {new}" for what, (old, new) in pairs.items() if old != new)
