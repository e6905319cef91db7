"""Replicas as processes: killed while they fill, and told to purge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.support.cache_proxies import caching_proxies
from tests.support.caching import origin, status_of
from tests.support.fleet import free_ports
from tests.support.relaying import client, until

TOKEN = "token-of-operators-for-tests"


async def test_a_killed_filler_costs_one_more_request_and_nobody_waits_beyond_the_lease(tmp_path):
    async with origin() as server, contextlib.AsyncExitStack() as stack:
        proxies = stack.enter_context(
            caching_proxies("fastroute", server.port, directory=tmp_path, replicas=2, more='lease = "2s"')
        )
        server.page("/a", "x" * 5000, "Cache-Control: max-age=60")
        server.go["/a"] = asyncio.Event()
        filler = await stack.enter_async_context(client(proxies.ports[0]))
        filler.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await until(lambda: server.count("/a") == 1, "nobody asked")
        others = [await stack.enter_async_context(client(proxies.ports[1])) for _ in range(10)]
        asked = [asyncio.ensure_future(one.get("/a")) for one in others]
        store = proxies.memcached
        assert store is not None
        questions = int(store.statistics()["cmd_get"])
        # They wait: their replica has asked the store for the object, and again.
        await until(lambda: int(store.statistics()["cmd_get"]) > questions + 3, "nobody waits")
        assert server.count("/a") == 1
        killed_s = time.monotonic()
        for pid in (*_children(proxies.processes[0].pid), proxies.processes[0].pid):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: server.count("/a") == 2, "nobody took over")
        took_s = time.monotonic() - killed_s
        server.go["/a"].set()
        found = await asyncio.gather(*asked)
        assert {(status, len(body)) for status, _, body in found} == {(200, 5000)}
        assert server.count("/a") == 2
        assert took_s < 4.0, "the lease of 2 s, and a busy machine"


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(one) for one in file.read().split()]


@pytest.fixture
async def fleet(tmp_path):
    """(server, clients of two replicas, admin port of the first)."""
    (port,) = free_ports(1)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    os.chmod(token, 0o600)
    more = f'[admin]\nbind = "127.0.0.1:{port}"\ntoken = "file:{token}"\n'

    async with origin() as server, contextlib.AsyncExitStack() as stack:
        # Only the first one gets the admin listener: the second hears of purges through the store.
        lines = iter((more, ""))
        from tests.support import cache_proxies

        plain = cache_proxies._fastroute

        def configured(*args: object) -> str:
            return plain(*args) + next(lines)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache_proxies, "_fastroute", configured)
            proxies = stack.enter_context(caching_proxies("fastroute", server.port, directory=tmp_path, replicas=2))
        clients = [await stack.enter_async_context(client(port)) for port in proxies.ports]
        yield server, clients, port, str(token)


def ctl(port: int, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{port}", "--token-file", token, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


async def gone(clients, path: str, body: bytes) -> float:
    """Seconds until every replica answers with this body."""
    began_s = time.monotonic()
    async with asyncio.timeout(40):
        while [(await one.get(path))[2] for one in clients] != [body] * len(clients):
            await asyncio.sleep(0.005)
    return time.monotonic() - began_s


async def kept(server, clients, path: str) -> None:
    """Returns once a round through all replicas asks no server: right after a purge, fills are not stored yet."""
    async with asyncio.timeout(40):
        while True:
            before = server.count(path)
            for one in clients:
                await one.get(path)
            if server.count(path) == before:
                return


async def test_purges_through_one_replica_are_seen_by_all(fleet):
    server, clients, port, token = fleet
    run = asyncio.to_thread
    pages = ("/url?x=1", "/tagged", "/other")
    for path in pages:
        server.page(path, "old", "Cache-Control: max-age=600", f"Surrogate-Key: t{path[1]} all", "Vary: X-Kind")
    for words in (("--url", "http://a.example/url?x=1"), ("--tag", "tt"), ("--namespace", "app")):
        for one in clients:
            for path in pages:
                await one.get(path)
        for path in pages:
            await kept(server, clients, path)
        counts = {path: server.count(path) for path in pages}
        for path in pages:
            server.pages[path].body = b"new"
        told = await run(ctl, port, token, "purge", *words)
        assert (told.returncode, told.stdout) == (0, "purged in app\n"), told.stderr
        purged = pages if words[0] == "--namespace" else pages[:1] if words[0] == "--url" else pages[1:2]
        for path in purged:
            await gone(clients, path, b"new")
            assert server.count(path) > counts[path], words
            await kept(server, clients, path)
        for path in set(pages) - set(purged):
            await clients[0].get(path)
            assert server.count(path) == counts[path], words
        for path in pages:
            server.pages[path].body = b"old"
        await run(ctl, port, token, "purge", "--namespace", "app")
        await asyncio.gather(*[gone([one], path, b"old") for one, path in zip(clients, pages, strict=False)])


async def test_a_soft_purge_serves_on_while_the_server_is_asked(fleet):
    server, clients, port, token = fleet
    server.page("/s", "old", "Cache-Control: max-age=600, stale-while-revalidate=600", 'ETag: "1"')
    for one in clients:
        await one.get("/s")
    server.page("/s", "new", "Cache-Control: max-age=600", 'ETag: "2"')
    told = await asyncio.to_thread(ctl, port, token, "purge", "--url", "http://a.example/s", "--soft")
    assert told.returncode == 0, told.stderr
    seen: list[tuple[bytes, str]] = []
    async with asyncio.timeout(40):
        while not seen or seen[-1][0] != b"new":
            _, fields, body = await clients[1].get("/s")
            seen.append((body, status_of(fields)))
            await asyncio.sleep(0.01)
    assert any("detail=stale-while-revalidate" in status for _, status in seen)
    assert server.count("/s") == 2


async def test_results_are_counted_by_pool(fleet):
    server, clients, port, _ = fleet
    server.page("/m", "hello", "Cache-Control: max-age=60")
    server.page("/n", "hello", "Cache-Control: no-store")
    for path in ("/m", "/m", "/m", "/n"):
        await clients[0].get(path)
    clients[0].send(b"POST /m HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    await clients[0].response()

    def scraped() -> dict[str, int]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=40).read().decode()
        rows = [line for line in text.splitlines() if line.startswith("fastroute_cache_requests_total{")]
        return {json.loads("{" + _json(line) + "}")["result"]: int(float(line.split()[-1])) for line in rows}

    found = await asyncio.to_thread(scraped)
    # The second request may have come while the first one's response was being stored.
    assert (found["hit"] + found["collapsed"], found["miss"], found["bypass"]) == (2, 2, 1)


def _json(line: str) -> str:
    inside = line[line.index("{") + 1 : line.index("}")]
    return ", ".join(f'"{name}": {value}' for name, _, value in (one.partition("=") for one in inside.split(",")))
