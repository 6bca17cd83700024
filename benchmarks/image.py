"""Cold and warm `import sat` on a distant file system: the plain prefix, its image, a node's own copy; and 64 nodes.

    python benchmarks/image.py PREFIX [--image FILE.sqfs] [--milliseconds 0.5] [--nodes 4] [--work DIR]

The distant file system is slowfs.py beside this file: each call of the client to the server takes so many milliseconds
more, and is counted. "cold" is the first start of Python on a node that has just mounted it, "warm" the next one. The
server's own disk and the node's are the same one, and its bytes are in memory: what is measured is the way between.

  plain        PREFIX itself on the distant file system
  image        the image on the distant file system, mounted there by a loop device: nothing is copied
  node-local   the image on the node's own disk, mounted by a loop device, after it was copied (read at once)
  unpacked     PREFIX on the node's own disk

For 64 nodes the calls of --nodes clients that start at once are counted, each with a mount and memory of its own, which
share nothing, as nodes don't: it is that many times one node's, and so are 64. Needs root (loop devices), mfusepy,
squashfs-tools and an environment in which `import sat` works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slowfs import KINDS, SIZE

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from cogvideo_sat_env.base.hashing import sha256_file  # noqa: E402
from cogvideo_sat_env.cluster.image_facts import ImageFacts, facts_path  # noqa: E402
from cogvideo_sat_env.cluster.squashfs_image import _measure, _pack  # noqa: E402
from cogvideo_sat_env.cluster.starter import write_starter  # noqa: E402

_IMAGE = Path("images", "r1.sqfs")
CODE = "import time; start = time.perf_counter(); import sat; print(time.perf_counter() - start)"


class Counts:
    """What the server was asked since it was last looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(SIZE))
        self.before = [0] * len(KINDS)

    def since(self) -> dict[str, int]:
        now = list(struct.unpack("5q", self.path.read_bytes()))
        found = {kind: number - old for kind, number, old in zip(KINDS, now, self.before, strict=True)}
        self.before = now
        return found


@contextmanager
def distant(folder: Path, work: Path, milliseconds: float) -> Iterator[tuple[Path, Counts]]:
    """Mount `folder` as a distant file system below `work`, with nothing of it in the client's memory."""
    place = Path(tempfile.mkdtemp(dir=work, prefix="client-"))
    (place / "mount").mkdir()
    counts = Counts(place / "counts")
    server = subprocess.Popen(
        [sys.executable, ROOT / "benchmarks" / "slowfs.py", folder, place / "mount", str(milliseconds), counts.path]
    )
    try:
        for _ in range(200):
            if os.path.ismount(place / "mount"):
                break
            time.sleep(0.05)
        counts.since()
        yield place / "mount", counts
    finally:
        subprocess.run(["umount", "-l", place / "mount"], check=True)
        server.wait(timeout=30)
        shutil.rmtree(place)


@contextmanager
def loop(image: Path, work: Path) -> Iterator[Path]:
    """Mount `image` by a loop device."""
    place = Path(tempfile.mkdtemp(dir=work, prefix="image-"))
    subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def start(prefix: Path) -> subprocess.Popen[str]:
    """Start Python in `prefix` and import sat."""
    env = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(
        [prefix / "bin" / "python", "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def finish(child: subprocess.Popen[str]) -> None:
    """Wait for it; a failed import is no measurement."""
    _, words = child.communicate()
    if child.returncode:
        sys.exit(f"import sat fails: {words[-800:]}")


def imported(prefix: Path, counts: Counts | None) -> dict[str, float]:
    """Return seconds from the start of Python to its end, and what the server was asked for it."""
    begin = time.perf_counter()
    finish(start(prefix))
    return {"seconds": time.perf_counter() - begin, **(counts.since() if counts else dict.fromkeys(KINDS, 0))}


def cold_and_warm(prefix: Path, counts: Counts | None) -> dict[str, dict[str, float]]:
    return {"cold": imported(prefix, counts), "warm": imported(prefix, counts)}


def copied(image: Path, target: Path, counts: Counts) -> dict[str, float]:
    """Copy the image to the node, as `satenv stage` does, its SHA-256 included; what that asks of the server."""
    begin = time.perf_counter()
    shutil.copyfile(image, target)
    sha256_file(target)
    return {"seconds": time.perf_counter() - begin, **counts.since()}


def staged_elsewhere(root: Path, counts: Counts, copy: Path) -> dict[str, float]:
    """Return what a node asks of the server that gets the image by sbcast: all of `stage` but the image's bytes."""
    begin = time.perf_counter()
    ran = subprocess.run(
        [root / "stage", "--here", "--json", "--copied", copy], capture_output=True, text=True, check=False
    )
    found = {"seconds": time.perf_counter() - begin, **counts.since()}
    answer = json.loads(ran.stdout or "{}")
    if answer.get("how") not in ("loop", "fuse"):
        sys.exit(f"stage doesn't mount here: {ran.stderr}")
    subprocess.run([root / "stage", "--here", "--release"], check=True, capture_output=True)
    return found


class Rows(dict[str, object]):
    """What was measured; each is shown for people as soon as it is known."""

    def __setitem__(self, name: str, value: object) -> None:
        super().__setitem__(name, value)
        if not isinstance(value, dict):
            return
        for temperature, one in value.items() if "cold" in value else [("", value)]:
            calls, megabytes = one["lookups"] + one["listings"] + one["opens"], one["bytes"] / 1e6
            seconds = f"{one['seconds']:8.1f}" if "seconds" in one else " " * 8
            row = f"{f'{name} {temperature}':34}{seconds}{calls:16,}{one['reads']:8,}{megabytes:9,.1f}"
            print(row, file=sys.stderr, flush=True)


def main() -> None:
    """Measure; print a table for people, and all numbers as JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("prefix", type=Path)
    options.add_argument("--image", type=Path)
    options.add_argument("--milliseconds", type=float, default=0.5)
    options.add_argument("--nodes", type=int, default=4)
    options.add_argument("--work", type=Path, default=None)
    given = options.parse_args()
    found = Rows()
    print(f"{'':34}{'seconds':>8}{'metadata calls':>16}{'reads':>8}{'MB read':>9}", file=sys.stderr)
    found |= {"milliseconds": given.milliseconds, "load": os.getloadavg()[0]}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.work, prefix="satenv-image-")))
        root = work / "root"
        (root / "releases").mkdir(parents=True)
        (root / "images").mkdir()
        image = root / _IMAGE
        if given.image:
            os.link(given.image, image)
        else:
            begin = time.perf_counter()
            _pack(shutil.which("mksquashfs") or "mksquashfs", given.prefix.resolve(), image)
            found["packing"] = time.perf_counter() - begin
        unpacked, files = _measure(given.prefix)
        receipt = json.loads((given.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
        facts = ImageFacts(image.stat().st_size, sha256_file(image), str(work / "node" / "r1"), "", unpacked, files,
                           receipt["fingerprint"], receipt["platform"])  # fmt: skip
        facts_path(image).write_text(facts.to_json())
        (root / "current").symlink_to("releases/r1")
        write_starter(root)
        found |= {"image_bytes": facts.size, "bytes": unpacked, "files": files}

        found["unpacked"] = cold_and_warm(given.prefix, None)
        with distant(given.prefix, work, given.milliseconds) as (prefix, counts):
            found["plain"] = cold_and_warm(prefix, counts)
        with distant(root, work, given.milliseconds) as (there, counts), loop(there / _IMAGE, work) as mounted:
            found["image"] = cold_and_warm(mounted, counts)
        with distant(root, work, given.milliseconds) as (there, counts):
            copy = work / "copy.sqfs"
            found["copying"] = copied(there / _IMAGE, copy, counts)
        with distant(root, work, given.milliseconds) as (there, counts):
            with loop(copy, work) as mounted:
                found["node-local"] = cold_and_warm(mounted, counts)
            counts.since()
            found["stage without the image's bytes"] = staged_elsewhere(there, counts, copy)
        with ExitStack() as clients:
            nodes = [clients.enter_context(distant(given.prefix, work, given.milliseconds)) for _ in range(given.nodes)]
            children = [start(prefix) for prefix, _ in nodes]
            for child in children:
                finish(child)
            sums = [counts.since() for _, counts in nodes]
        found[f"plain, {given.nodes} nodes"] = {kind: sum(one[kind] for one in sums) for kind in KINDS}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
