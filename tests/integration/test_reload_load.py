"""A real replica under load: reloads cost no request, a killed worker costs its own connections only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.soak.clients import Party, Tally
from tests.soak.reloads import reload_under_load
from tests.soak.stage import Stage, until


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Iterator[Stage]:
    one = Stage(tmp_path, servers=2)
    yield one
    one.close()


async def test_ten_reloads_under_load_cost_no_request(stage: Stage) -> None:
    tally = await reload_under_load(stage, 10, clients=4)
    assert tally.lost == []
    assert tally.wrong == []
    assert tally.seen["steady answered"] > 200


def kept(port: int, count: int) -> list[socket.socket]:
    """Connections that have carried a request and stay open."""
    many = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=20)
        assert ask(one) == BODY
        many.append(one)
    return many


BODY = b"hello"


def ask(one: socket.socket) -> bytes:
    """The body of an answer, b"" when the connection ended."""
    one.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    got = b""
    while not (found := re.search(rb"(?s)\r\n\r\n(.{5})$", got)):
        piece = one.recv(65536)
        if not piece:
            return b""
        got += piece
    return found.group(1)


async def test_a_killed_worker_takes_its_own_connections_with_it_and_no_other(stage: Stage) -> None:
    many = await asyncio.to_thread(kept, stage.port, 16)
    counts = {pid: told["downstream_connections"] for pid, told in stage.tell().items()}
    assert sum(counts.values()) == 16
    victim = next(iter(counts))
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in stage.workers() and len(stage.workers()) == 2, "another one took its place")
    alive = 0
    for one in many:
        with contextlib.suppress(OSError):
            alive += ask(one) == BODY
        one.close()
    assert alive == 16 - counts[victim]
    tally = Tally()
    party = Party(stage.port, tally, 1)
    party.start(steady=4)
    async with asyncio.timeout(40):
        while tally.seen["steady answered"] < 100:
            await asyncio.sleep(0.02)
    await party.stop()
    assert (tally.lost, tally.wrong) == ([], [])
