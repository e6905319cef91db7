"""Clients of the soak, good and bad, and what came of their requests.

Rules of this file: every answer is compared with what it must be; a client that misbehaves on purpose counts nothing of
what follows as lost; a request on a connection that had carried one and was closed unanswered is asked again once, as
every client of HTTP does (RFC 9110, 9.2.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import websockets
from websockets.asyncio.client import connect

from tests.soak.server import body_of
from tests.support.relaying import Client

WAIT_S = 60.0
began_s: contextvars.ContextVar[float] = contextvars.ContextVar("began_s")
"""When the present turn of this task's client began."""
SIZES = (0, 1, 100, 1500, 16_000, 70_000, 300_000)


@dataclass
class Tally:
    """What came of it all."""

    seen: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[float, float, str]] = field(default_factory=list)
    """(when its connection began, when it was noticed, how) of each request that was not answered as it must be."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were whole and not right: there is no excuse for one."""
    latencies_s: list[float] = field(default_factory=list)

    def lose(self, how: str) -> None:
        self.lost.append((began_s.get(), time.monotonic(), how))


class Party:
    """Clients of one port that go on until told to stop."""

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self.port, self.tally, self.seed = port, tally, seed
        self.stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, **how_many: int) -> None:
        """By kind: steady, aborter, slow_reader, slow_writer, socket."""
        for kind, count in how_many.items():
            for n in range(count):
                pick = random.Random(f"{self.seed} {kind} {n}")
                self._tasks.append(asyncio.create_task(self._again(kind, getattr(self, f"_{kind}"), pick)))

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self._tasks)

    async def _again(self, kind: str, turn: Callable[[random.Random], Awaitable[None]], pick: random.Random) -> None:
        while not self.stopping:
            self.tally.seen[kind] += 1
            began_s.set(time.monotonic())
            try:
                async with asyncio.timeout(WAIT_S):
                    await turn(pick)
            except TimeoutError:
                self.tally.lose(f"{kind}: no answer in {WAIT_S:.0f} s")
            except (OSError, asyncio.IncompleteReadError) as error:
                self.tally.lose(f"{kind}: {type(error).__name__}")
            await asyncio.sleep(pick.random() * 0.02)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        one = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        try:
            yield one
        finally:
            one.writer.transport.abort()

    def _request(self, pick: random.Random) -> tuple[bytes, bytes]:
        """(what to send, the body to expect)"""
        size, seed = pick.choice(SIZES), pick.randrange(64)
        body = body_of(size, seed)
        if pick.random() < 0.7:
            return b"GET /bytes?n=%d&seed=%d HTTP/1.1\r\nHost: a\r\n\r\n" % (size, seed), body
        if pick.random() < 0.5:
            return b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body, body
        pieces = [body[at : at + 9000] for at in range(0, size, 9000)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", body

    def _judge(self, kind: str, status: int, got: bytes, body: bytes) -> bool:
        if status != 200:
            self.tally.lose(f"{kind}: {status}")
        elif got != body:
            self.tally.wrong.append(f"{kind}: {len(got)} bytes for {len(body)}")
        else:
            self.tally.seen[f"{kind} answered"] += 1
            return True
        return False

    async def _steady(self, pick: random.Random) -> None:
        """Some requests on one connection, as fast as they are answered."""
        async with self._connected() as one:
            for n in range(pick.randrange(1, 60)):
                raw, body = self._request(pick)
                begun_s = time.monotonic()
                one.send(raw)
                try:
                    status, fields = await one.head()
                except (asyncio.IncompleteReadError, OSError) as error:
                    if n and not getattr(error, "partial", b""):
                        self.tally.seen["asked again"] += 1
                        return
                    raise
                if not self._judge("steady", status, await one.body(fields), body):
                    return
                self.tally.latencies_s.append(time.monotonic() - begun_s)
                if fields.get("connection") == "close" or self.stopping:
                    return

    async def _aborter(self, pick: random.Random) -> None:
        """Leaves somewhere in the middle: of its request, of the answer, before either."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with self._connected() as one, asyncio.timeout(pick.choice((0.05, 1.0, 15.0))):
                raw, _ = self._request(pick)
                one.send(raw[: pick.randrange(len(raw) + 1)])
                if pick.random() < 0.5:
                    await one.reader.read(pick.randrange(1, 100_000))
                await asyncio.sleep(pick.random() * 0.01)

    async def _slow_reader(self, pick: random.Random) -> None:
        """Takes a large answer in small pieces."""
        async with self._connected() as one:
            seed = pick.randrange(4)
            body = body_of(1 << 20, seed)
            one.send(b"GET /bytes?n=%d&seed=%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (1 << 20, seed))
            status, fields = await one.head()
            got = b""
            if fields.get("transfer-encoding") == "chunked":
                await asyncio.sleep(0.5)
                got = await one.body(fields)
            else:
                while piece := await one.reader.read(32 << 10):
                    got += piece
                    await asyncio.sleep(0.01)
            self._judge("slow_reader", status, got, body)

    async def _slow_writer(self, pick: random.Random) -> None:
        """Sends a body in small pieces."""
        async with self._connected() as one:
            body = body_of(20_000, pick.randrange(64))
            one.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
            for at in range(0, len(body), 500):
                one.send(body[at : at + 500])
                await asyncio.sleep(0.01)
            status, _, got = await one.response()
            self._judge("slow_writer", status, got, body)

    async def _socket(self, pick: random.Random) -> None:
        """A WebSocket for a while; being told to go elsewhere is no loss."""
        try:
            async with connect(f"ws://127.0.0.1:{self.port}/ws", compression=None, proxy=None) as socket:
                for _ in range(pick.randrange(1, 200)):
                    text = body_of(pick.choice(SIZES[1:5]), pick.randrange(64))
                    await socket.send(text)
                    got = await socket.recv()
                    if got != text:
                        self.tally.wrong.append(f"socket: {len(got)} bytes for {len(text)}")
                        return
                    if self.stopping:
                        return
                    await asyncio.sleep(pick.random() * 0.02)
                self.tally.seen["socket answered"] += 1
        except websockets.ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == 1001:
                self.tally.seen["socket told to go"] += 1
            else:
                self.tally.lose(f"socket: {error}")
        except websockets.InvalidStatus as error:
            self.tally.lose(f"socket: {error.response.status_code}")
        except websockets.InvalidMessage:
            self.tally.lose("socket: no answer")
