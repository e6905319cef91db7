"""Requests through caching replicas while their memcached is killed and comes back: what clients and the server saw.

    report = asyncio.run(outage(directory, origin_max=4))

A slow server with KEYS pages, each fresh for a second, so that something is always stale; clients on both replicas
that ask for the pages all the time; memcached is killed in the middle and started again, empty, later.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import time

from tests.support.cache_proxies import caching_proxies

KEYS = 40
ANSWER_S = 0.05
"""The server takes this long: were there no limit, 24 clients would be with it at once."""


@dataclasses.dataclass
class Report:
    """What was seen.

    Attributes:
        requests: answered to clients.
        failures: not a 200, or no answer.
        asked: requests that the server got, before, during and after the outage.
        in_flight_away_max: the most requests that the server had at once, of those that came while memcached was away.
        hits_after: answers out of a cache in the last phase.
    """

    requests: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    asked: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])
    in_flight_away_max: int = 0
    hits_after: int = 0


class _Server:
    """The slow server."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.phase, self.noticed = 0, False
        self._away = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.report.asked[self.phase] += 1
                counts = self.phase == 1 and self.noticed
                if counts:
                    self._away += 1
                    self.report.in_flight_away_max = max(self.report.in_flight_away_max, self._away)
                await asyncio.sleep(ANSWER_S)
                if counts:
                    self._away -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1\r\nContent-Length: 4\r\n\r\nbody")
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def _client(number: int, port: int, report: Report, server: _Server, end: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = number * 7
    try:
        while not end.is_set():
            turn += 1
            writer.write(f"GET /{turn % KEYS} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
            try:
                async with asyncio.timeout(30):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                    body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            except (OSError, asyncio.IncompleteReadError, TimeoutError, IndexError) as error:
                report.failures.append(repr(error))
                return
            report.requests += 1
            if " 200 " not in head.split("\r\n")[0] or body != b"body":
                report.failures.append(head.split("\r\n")[0])
            elif server.phase == 2 and "; hit" in head:
                report.hits_after += 1
            await asyncio.sleep(0.002)
    finally:
        writer.close()


async def outage(
    directory: pathlib.Path, *, origin_max: int = 4, clients: int = 24, up_s: float = 1.5, away_s: float = 2.0
) -> Report:
    """Run it: up, away, up again. `origin_max` is each replica's limit."""
    report = Report()
    server = _Server(report)
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    end = asyncio.Event()
    with caching_proxies(
        "fastroute", port, directory=directory, replicas=2, more=f"origin_max = {origin_max}"
    ) as proxies:
        assert proxies.memcached is not None
        tasks = [
            asyncio.create_task(_client(number, proxies.ports[number % 2], report, server, end))
            for number in range(clients)
        ]
        try:
            await asyncio.sleep(up_s)
            await asyncio.to_thread(proxies.memcached.kill)
            server.phase = 1
            # What was begun under leases ends within the server's time; the loss is noticed by the first request.
            await asyncio.sleep(2 * ANSWER_S + 0.2)
            server.noticed = True
            await asyncio.sleep(away_s)
            server.noticed = False
            await asyncio.to_thread(proxies.memcached.start)
            server.phase = 2
            until_s = time.monotonic() + 20
            while report.hits_after < 50 and not report.failures and time.monotonic() < until_s:
                await asyncio.sleep(0.05)
        finally:
            end.set()
            await asyncio.gather(*tasks)
    listening.close()
    await listening.wait_closed()
    return report
