"""Proves every byte of a bundle, on all cores, in constant memory. Python's standard library only."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.bundle.container import Bundle, Member

Write = Callable[[bytes], object]
Take = Callable[[Member], AbstractContextManager[Write] | None]


class _StoppedError(Exception):
    """Another member was wrong."""


def verify(
    bundle: Bundle, *, take: Take = lambda _: None, seen: Callable[[int], None] = lambda _: None,
    jobs: int | None = None,
) -> int:  # fmt: skip
    """Read and prove every member and all that lies between them; return the bytes that were read.

    `take` says where a member's bytes go as well (None: nowhere), so that nothing is read twice: into what its context
    gives, whose block ends without an error only when they are right. `seen` gets the bytes of each piece, from any
    thread. Raises VerificationError, InputError (a delta without its base).
    """
    bundle.require_base()
    stop = threading.Event()

    def one(member: Member) -> int:
        with take(member) or nullcontext(lambda _: None) as write:

            def forward(piece: bytes) -> None:
                if stop.is_set():
                    raise _StoppedError
                write(piece)
                seen(len(piece))

            bundle.copy(member, forward)
        return member.size

    # the largest first: the last core shouldn't be left alone with it
    members = sorted(bundle.members.values(), key=lambda m: (-m.size, m.path))
    pool = ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1)
    work = [pool.submit(one, member) for member in members]
    work.append(pool.submit(_framing, bundle))
    try:
        wait(work, return_when=FIRST_EXCEPTION)
    finally:
        if any(not job.done() for job in work):
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    failures = [job.exception() for job in work if not job.cancelled() and job.exception()]
    real = [failure for failure in failures if not isinstance(failure, _StoppedError)]
    if real:
        raise real[0]
    return sum(job.result() for job in work)


def _framing(bundle: Bundle) -> int:
    """Prove what lies between the members: headers of the tar archive, and padding."""
    digest, position, read = hashlib.sha256(), 0, 0
    members = sorted((m.offset, m.size) for m in bundle.members.values() if m.offset is not None)
    for offset, size in [*members, (bundle.manifest["data_size"], 0)]:
        for piece in bundle.data.pieces(position, offset - position):
            digest.update(piece)
            read += len(piece)
        position = offset + size
    if digest.hexdigest() != bundle.manifest["framing_sha256"] or bundle.data.size != bundle.manifest["data_size"]:
        raise VerificationError(
            f"{bundle.name}: the bytes between its members are damaged",
            "copy the bundle again; what is in it can't be trusted",
        )
    return read
