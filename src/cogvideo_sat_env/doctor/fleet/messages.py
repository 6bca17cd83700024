"""Ranks tell rank 0 what they found: JSON over the standard library's connections; nobody is waited for without end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing import connection as connections
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.doctor.fleet.job_step import PORT

GONE = "gone"
_PINGS = 5
_GREETING = 10.0  # seconds that a listener may take to say its first word
_LARGEST = 64 * 2**20  # bytes of one message; a report of all checks has about a hundredth


class Coordinator:
    """Rank 0's side, on `port` (0: any).

    `messages[rank][kind]` is what came (GONE: the last words of a rank, sent on by who started it); `lost` holds the
    ranks whose connection ended.
    """

    def __init__(self, port: int, key: bytes, ranks: int) -> None:
        self.messages: dict[int, dict[str, Any]] = {}
        self.lost: set[int] = set()
        self._answers: dict[str, Any] = {}
        self._answered: set[tuple[int, str]] = set()
        self._key = key
        self._news = threading.Condition()
        try:
            self._listener = Listener(("", port), backlog=ranks)
        except OSError as error:
            raise SourceError(
                f"rank 0 can't listen on port {port}: {error.strerror}",
                "export SATENV_FLEET_PORT with a free port, the same for all ranks",
            ) from error
        self.port: int = self._listener.address[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self, kind: str, ranks: set[int], seconds: float) -> set[int]:
        """Wait until each of `ranks` has sent `kind` or is lost, at most `seconds`; return those that haven't."""

        def missing() -> set[int]:
            return {rank for rank in ranks if kind not in self.messages.get(rank, {})}

        with self._news:
            self._news.wait_for(lambda: not missing() - self.lost, seconds)
            return missing()

    def answer(self, kind: str, content: Any) -> None:
        """Answer all who sent or will send `kind`."""
        with self._news:
            self._answers[kind] = content
            self._news.notify_all()

    def wait_answered(self, kind: str, ranks: set[int], seconds: float) -> None:
        """Wait until each of `ranks` has its answer to `kind` or is lost, at most `seconds`: the last thing to do."""
        with self._news:
            self._news.wait_for(lambda: {(rank, kind) for rank in ranks - self.lost} <= self._answered, seconds)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except ConnectionError:
                continue
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        rank = -1
        try:  # in this thread: one who connects and says nothing may not keep the others out
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
        except (AuthenticationError, EOFError, OSError):  # of another run, or a port scanner
            connection.close()
            return
        try:
            while True:
                kind, rank, content = json.loads(connection.recv_bytes(_LARGEST))
                if kind == "ping":
                    _send(connection, time.time())
                    continue
                with self._news:
                    self.messages.setdefault(rank, {})[kind] = content
                    if kind == GONE:
                        self.lost.add(rank)
                    self._news.notify_all()
                    while kind != GONE and kind not in self._answers:
                        self._news.wait()
                _send(connection, self._answers.get(kind))
                with self._news:
                    self._answered.add((rank, kind))
                    self._news.notify_all()
        except (EOFError, OSError, ValueError):
            with self._news:
                self.lost.add(rank)
                self._news.notify_all()


class Client:
    """The side of every other rank; `address` is the one at which rank 0 answered."""

    def __init__(self, hosts: Sequence[str], port: int, key: bytes, rank: int, seconds: float) -> None:
        """Connect to rank 0, which may come later, at one of `hosts`, at most `seconds`.

        Raises SourceError; at once when none of the names leads to an address.
        """
        self._rank = rank
        deadline = time.monotonic() + seconds
        problems: dict[str, str] = {}
        while True:
            unknown = 0
            for host in hosts:
                try:
                    self._connection = self._connect(host, port, key, min(_GREETING, seconds))
                    self.address = host
                    return
                except AuthenticationError:
                    problems[host] = "belongs to another run"
                except socket.gaierror as error:
                    unknown += 1
                    problems[host] = f"has no address ({error.strerror})"
                except (OSError, EOFError) as error:
                    problems[host] = str(error)
            others = all("another" in problem for problem in problems.values())
            if unknown == len(hosts) or others or time.monotonic() > deadline:
                raise SourceError(*_unreachable(rank, port, problems, others, unknown == len(hosts)))
            time.sleep(0.2)

    @staticmethod
    def _connect(host: str, port: int, key: bytes, greeting: float) -> Connection:
        connection = connections.Client((host, port))
        if not connection.poll(greeting):
            connection.close()
            raise OSError("belongs to another program, which sends nothing")
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        return connection

    def clock_skew(self) -> float:
        """Return by how many seconds this host's clock is ahead of rank 0's; as exact as half of a message's way."""
        best = (float("inf"), 0.0)
        for _ in range(_PINGS):
            before, start = time.time(), time.monotonic()
            there = self.ask("ping", None, 30.0)
            way = time.monotonic() - start
            best = min(best, (way, before + way / 2 - there))
        return best[1]

    def ask(self, kind: str, content: Any, seconds: float) -> Any:
        """Send `content` and return rank 0's answer. Raises SourceError when none comes within `seconds`."""
        try:
            _send(self._connection, [kind, self._rank, content])
            if self._connection.poll(seconds):
                return json.loads(self._connection.recv_bytes(_LARGEST))
        except (EOFError, OSError) as error:
            raise SourceError(f"rank {self._rank}: rank 0 is gone", "see the output of rank 0") from error
        late = f"rank {self._rank}: no answer from rank 0 within {seconds:.0f} s"
        raise SourceError(late, "see the output of rank 0")


def _unreachable(rank: int, port: int, problems: dict[str, str], others: bool, unknown: bool) -> tuple[str, str]:
    """Return message and remedy of a rank that can't reach rank 0."""
    shown = "; ".join(f"{host}:{port} {problem}" for host, problem in problems.items())
    message = f"rank {rank} can't reach rank 0: {shown}"
    if others:
        return message, f"export {PORT} with another port"
    if unknown:
        return message, "export MASTER_ADDR with the address of the first node, or correct DNS or /etc/hosts there"
    return message, "is rank 0 alive, is its name right (MASTER_ADDR), does a firewall close ports 20000 to 39999?"


def _send(connection: Connection, content: Any) -> None:
    connection.send_bytes(json.dumps(content).encode("utf-8"))
