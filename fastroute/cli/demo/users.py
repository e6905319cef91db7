"""Generated users: each comes to both replicas at the same moment, then by turns, and remembers who answered.

That first moment is where fleets without agreement go wrong: two balancers see an unknown user at once. A user answered
by two servers is split, unless its server had died in between: then it has moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LANES = 16
"""Users who are served at the same time; each lane holds one connection to each replica."""

PACE_PER_S = 300
"""Requests per second when the demo runs without end: enough to look at, too few to warm the room."""

TIMEOUT_S = 10.0

LATENCIES_MAX = 20_000
"""The last so many are the percentiles': sorted in 3 ms, four times a second."""


@dataclass
class User:
    """One user.

    Attributes:
        sid: the session id, made by the user's application elsewhere, say.
        server: who answers this user, None before the first answer.
    """

    sid: str
    server: str | None = None
    is_split: bool = False
    turn: int = 0


@dataclass
class Tally:
    """What was seen so far.

    Attributes:
        dead: asks which servers have ended, so that a move is told from a split.
    """

    dead: Callable[[], set[str]] = set
    users: int = 0
    requests: int = 0
    failed: int = 0
    splits: int = 0
    moved: int = 0
    started_s: float = field(default_factory=time.monotonic)
    last_failure: str = ""
    users_of: Counter[str] = field(default_factory=Counter)
    requests_of: Counter[str] = field(default_factory=Counter)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_MAX))

    def answered(self, user: User, server: str, latency_ms: float) -> None:
        """One good answer."""
        self.requests += 1
        self.requests_of[server] += 1
        self.latencies_ms.append(latency_ms)
        if user.server == server:
            return
        if user.server is None:
            self.users += 1
        else:
            self.users_of[user.server] -= 1
            if user.server in self.dead():
                self.moved += 1
            elif not user.is_split:
                user.is_split = True
                self.splits += 1
        user.server = server
        self.users_of[server] += 1

    def failure(self, why: str) -> None:
        """One request without a good answer."""
        self.requests += 1
        self.failed += 1
        self.last_failure = why

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the last requests did not exceed; 0 before the first."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Connection:
    """A keep-alive HTTP/1.1 connection to one replica, reopened when it was closed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, user: User, tally: Tally) -> None:
        """One request of the user, into the tally."""
        begun_s = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, server = await self._exchange(user.sid)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, TimeoutError) as error:
            await self.close()
            tally.failure(f"port {self.port}: {type(error).__name__} {error}".rstrip())
            return
        if status != "200" or not server:
            tally.failure(f"port {self.port}: status {status}")
        else:
            tally.answered(user, server, (time.perf_counter() - begun_s) * 1000)

    async def _exchange(self, sid: str) -> tuple[str, str]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: sid={sid}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(fields.get("content-length", "0")))
        if fields.get("connection", "").lower() == "close":
            await self.close()
        return first.split(" ")[1], fields.get("x-served-by", "")

    async def close(self) -> None:
        if self.streams is not None:
            writer, self.streams = self.streams[1], None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def drive(tally: Tally, ports: Sequence[int], *, users: int, requests: int | None) -> None:
    """Let the users come.

    Args:
        tally: filled as it goes.
        ports: one per replica.
        users: how many different ones.
        requests: ends after so many; None: goes on until cancelled, at PACE_PER_S.
    """
    budget = _Budget(requests)
    lanes = min(LANES, users)
    async with asyncio.TaskGroup() as group:
        for lane in range(lanes):
            own = [User(secrets.token_urlsafe(16)) for _ in range(lane, users, lanes)]
            group.create_task(_lane(tally, ports, own, budget, lanes))


class _Budget:
    def __init__(self, requests: int | None) -> None:
        self.left, self.endless = requests or 0, requests is None

    def take(self, wanted: int) -> int:
        """How many of the wanted requests may be made."""
        if self.endless:
            return wanted
        granted = min(wanted, self.left)
        self.left -= granted
        return granted


async def _lane(tally: Tally, ports: Sequence[int], users: list[User], budget: _Budget, lanes: int) -> None:
    connections = [Connection(port) for port in ports]
    try:
        while True:
            for user in users:
                granted = budget.take(len(ports) if user.server is None else 1)
                if not granted:
                    return
                due_s = time.monotonic() + granted * lanes / PACE_PER_S
                failed = tally.failed
                if user.server is None:
                    await asyncio.gather(*(one.get(user, tally) for one in connections[:granted]))
                else:
                    user.turn += 1
                    await connections[user.turn % len(connections)].get(user, tally)
                if budget.endless or tally.failed > failed:  # what fails is not asked again at full speed
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    finally:
        for one in connections:
            await one.close()
