"""Active probes of `prequal` against servers over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from fastroute.errors import ConnectError, ReadTimeout, UpstreamProtocolError
from fastroute.health.head_request import HeadClient, HeadReply
from fastroute.health.load_probe import LoadProbe, load_in
from fastroute.model import Server
from fastroute.routing.pool import Pool
from tests.support.loops import settled
from tests.support.memcached import free_port

WAIT_S = 40.0


class Served:
    """A server that answers each request with the bytes a test chose."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self.answer, self.heads, self.connections = answer, [], 0
        self.address = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer())
        writer.close()

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def served(answer: Callable[[], bytes]) -> AsyncIterator[Served]:
    made = Served(answer)
    listening = await asyncio.start_server(made, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()
        await settled()
        made.close_all()
        await asyncio.sleep(0)
        await listening.wait_closed()


def reply(*fields: str, status: str = "200 OK") -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""])).encode()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5", (3, 12.5)),
        ("TEXT cpu_utilization=0.3, named_metrics.in_flight=4", (4, None)),
        ("TEXT named_metrics.latency_ms=1e3", (None, 1000.0)),
        ("JSON {}", (None, None)),
        ("TEXT named_metrics.in_flight=-1,named_metrics.latency_ms=nan", (None, None)),
        ("TEXT named_metrics.in_flight=inf,named_metrics.latency_ms=x,,=", (None, None)),
        ("", (None, None)),
    ],
)
def test_load_is_read_from_orcas_text_form(text, found):
    assert load_in(HeadReply(200, (("endpoint-load-metrics", text),), 0.1)) == found


async def test_probes_steer_prequal_away_from_the_server_that_reports_load():
    loaded = "Endpoint-Load-Metrics: TEXT named_metrics.in_flight=200,named_metrics.latency_ms=900"
    idle = "Endpoint-Load-Metrics: TEXT named_metrics.in_flight=0,named_metrics.latency_ms=1"
    async with served(lambda: reply(loaded)) as busy, served(lambda: reply(idle)) as free:
        pool = Pool(
            "app", [Server(busy.address, name="busy"), Server(free.address, name="free")], policy="prequal", seed=7
        )
        probe = LoadProbe(pool, "/load", interval="2ms")
        probe.start()
        try:
            for _ in range(4):
                pool.select()
                await asyncio.sleep(0.01)
            await until(lambda: busy.heads and free.heads and not probe._running)
            picks = []
            for _ in range(40):
                pool.select()
                await asyncio.sleep(0.003)
                picks.append(pool.select().name)
            assert picks.count("free") >= 36, picks
            assert busy.heads[0].startswith(b"HEAD /load HTTP/1.1\r\n")
            assert busy.connections == free.connections == 1, "one kept connection"
        finally:
            await probe.aclose()


async def test_a_probe_that_fails_is_counted_and_marks_nobody():
    async with served(lambda: reply(status="500 Oops")) as broken:
        servers = [Server(broken.address, name="broken"), Server(f"127.0.0.1:{free_port()}", name="gone")]
        pool = Pool("app", servers, policy="prequal", seed=7)
        probe = LoadProbe(pool, "/load", interval="2ms")
        probe.start()
        try:
            pool.select()
            await until(lambda: pool.select() and probe.statistics.failed >= 6)
            assert [row.state for row in pool.statistics().servers] == ["ready", "ready"]
        finally:
            await probe.aclose()


async def test_a_server_that_leaves_the_pool_is_probed_no_more():
    async with served(reply) as first, served(reply) as second:
        pool = Pool("app", [Server(first.address, name="a"), Server(second.address, name="b")], policy="prequal")
        probe = LoadProbe(pool, "/load", interval="2ms")
        probe.start()
        try:
            await until(lambda: pool.select() and first.heads and second.heads)
            pool.update([Server(second.address, name="b")])
            await until(lambda: "a" not in probe._clients)
            seen = len(first.heads)
            count = len(second.heads)
            await until(lambda: pool.select() and len(second.heads) > count + 3)
            assert len(first.heads) == seen
        finally:
            await probe.aclose()


async def test_a_kept_connection_that_the_server_closed_is_replaced():
    async with served(reply) as server:
        client = HeadClient(server.address)
        assert (await client.head("/")).status == 200
        server.close_all()
        assert (await client.head("/")).status == 200
        assert server.connections == 2
        client.close()


async def test_connection_close_is_kept_to():
    async with served(lambda: reply("Connection: close")) as server:
        client = HeadClient(server.address)
        assert [(await client.head("/")).status for _ in range(2)] == [200, 200]
        assert server.connections == 2
        client.close()


async def test_interim_responses_are_passed_over():
    async with served(lambda: reply(status="103 Early Hints") + reply("X: y", status="204 No Content")) as server:
        client = HeadClient(server.address)
        found = await client.head("/")
        assert (found.status, found.value("x")) == (204, "y")
        client.close()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000, b"HTTP/1.1 200\0\r\n\r\n"]
)
async def test_what_is_no_answer_is_refused(answer):
    async with served(lambda: answer) as server:
        client = HeadClient(server.address)
        with pytest.raises(UpstreamProtocolError):
            await client.head("/")
        client.close()


async def test_a_silent_server_costs_the_time_limit_and_no_more():
    async with served(lambda: b"") as server:
        client = HeadClient(server.address, timeout_s=0.05)
        with pytest.raises(ReadTimeout):
            await client.head("/")


async def test_a_refused_connection_is_told():
    with pytest.raises(ConnectError):
        await HeadClient(f"127.0.0.1:{free_port()}").head("/")
