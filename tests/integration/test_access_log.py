"""The access log: a line per request in both formats, nothing forged or secret in it, a slow disk, rotation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import sys
import time
import urllib.request

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from tests.support.access_log import lines_of
from tests.support.caching import cached, origin
from tests.support.fleet import Process, free_ports
from tests.support.memcached import Memcached
from tests.support.relaying import (
    always,
    answer,
    client,
    configured,
    echo,
    proxying,
    reset,
    serving,
    until,
    unused_port,
)

POOL = 'pool = "p"\n[[pools.p.servers]]\naddress = "a:2"\n'
COMBINED = re.compile(
    r'(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "([^"]*)" (\d{3}) (\d+) "([^"]*)" "([^"]*)"\n'
)


def logging(path: pathlib.Path, form: str = "json", more: str = "") -> str:
    return f'[access_log]\nformat = "{form}"\npath = "{path}"\n{more}'


async def test_json_says_what_became_of_each_request(tmp_path):
    path = tmp_path / "access.log"
    listener = (
        'request_id = "X-Request-Id"\ntrusted_proxies = ["127.0.0.1"]\n'
        'routes = [{ host = "nobody.example", pool = "app", clients = "10.9.9.9" }]\n'
    )
    async with (
        serving(echo) as (port, _),
        proxying(configured([port], listener=listener, top=logging(path), sticky='on = "header:X-User"')) as (
            proxy,
            web,
        ),
        client(web) as one,
        client(web) as other,
    ):
        fields = [
            "User-Agent: a browser",
            "Referer: http://r/",
            "X-Forwarded-For: 10.0.0.7",
            "X-User: u",
            "Cookie: c=1",
        ]
        _, _, body = await one.get("/a?b=c", *fields, "Authorization: Basic x", "X-Request-Id: id-1")
        one.send(b"POST /p HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        await one.response()
        one.send(b"HEAD /h HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\n\r\n")
        await one.head()
        other.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await other.response())[0] == 400
        found = [json.loads(line) for line in await lines_of(path, 4)]
        first = found[0]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
        assert 0 < first.pop("duration_s") < 30
        assert first == {
            "listener": "web",
            "client": "10.0.0.7",
            "method": "GET",
            "host": "a.example",
            "target": "/a?b=c",
            "protocol": "HTTP/1.1",
            "status": 200,
            "bytes": len(body),
            "pool": "app",
            "server": "s1",
            "reason": first["reason"],
            "retries": 0,
            "request_id": "id-1",
            "referer": "http://r/",
            "user_agent": "a browser",
        }
        assert first["reason"] in ("policy", "affinity-near", "affinity-store")
        assert [(one["method"], one["status"], one["bytes"]) for one in found[1:3]] == [
            ("POST", 200, 3),
            ("HEAD", 200, 0),
        ]
        assert found[2]["protocol"] == "HTTP/1.0"
        assert (found[3]["status"], found[3]["method"], found[3]["target"], found[3]["pool"]) == (
            400,
            None,
            None,
            "app",
        )
        assert found[3]["request_id"] is None
        assert "c=1" not in path.read_text()
        assert "Basic" not in path.read_text()
        assert proxy.statistics()["access_log"] == {"lines": 4, "dropped": 0}


async def test_combined_is_what_other_programs_read(tmp_path):
    path = tmp_path / "access.log"
    async with (
        serving(always(answer(b"0123456789"))) as (port, _),
        proxying(configured([port], top=logging(path, "combined"))) as (_, web),
        client(web) as one,
    ):
        await one.get("/x", "User-Agent: curl/8", "Referer: r")
        await one.get("/y")
        first, second = [COMBINED.fullmatch(line) for line in await lines_of(path, 2)]
        assert first
        assert second
        assert first.groups() == ("127.0.0.1", "GET /x HTTP/1.1", "200", "10", "r", "curl/8")
        assert second.groups()[4:] == ("-", "-")


@pytest.mark.parametrize("form", ["combined", "json"])
async def test_no_request_can_forge_a_line(tmp_path, form):
    path = tmp_path / "access.log"
    nasty = 'x" 200 1 "-" "\\\t\x80é'
    async with (
        serving(echo) as (port, _),
        proxying(configured([port], top=logging(path, form))) as (_, web),
        client(web) as one,
    ):
        await one.get("/%22'", f"User-Agent: {nasty}")
        (line,) = await lines_of(path, 1)
        assert line.isascii()
        assert all(" " <= c <= "~" for c in line[:-1])
        if form == "json":
            assert json.loads(line)["user_agent"] == nasty
            assert json.loads(line)["target"] == "/%22'"
        else:
            found = COMBINED.fullmatch(line)
            assert found
            assert found[2] == "GET /%22' HTTP/1.1"
            assert found[6] == r"x\x22 200 1 \x22-\x22 \x22\x5C\x09\x80\xE9"


async def test_failures_and_clients_that_leave_have_their_status(tmp_path):
    path = tmp_path / "access.log"

    async def never(seen, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        seen.received += 1
        await seen.go.wait()

    routes = 'routes = [{ host = "dead.example", pool = "dead" }]\n'
    dead = f'[[pools.dead.servers]]\nname = "d"\naddress = "127.0.0.1:{unused_port()}"\n'
    async with serving(never) as (port, seen):
        config = configured([port], listener=routes, top=logging(path) + dead)
        async with proxying(config) as (_, web):
            async with client(web) as one:
                one.send(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: seen.received == 1, "the server has it")
                reset(one.writer)
            async with client(web) as one:
                one.send(b"GET /dead HTTP/1.1\r\nHost: dead.example\r\n\r\n")
                assert (await one.response())[0] in (502, 503)
            found = {one["target"]: one for one in map(json.loads, await lines_of(path, 2))}
            assert (found["/gone"]["status"], found["/gone"]["server"]) == (499, "s1")
            assert found["/dead"]["status"] in (502, 503)
            assert found["/dead"]["pool"] == "dead"


async def test_a_disk_that_does_not_take_lines_costs_lines_and_no_request(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with (
            serving(echo) as (port, _),
            proxying(configured([port], top=logging(path, "json", 'buffer = "64KiB"\n'))) as (proxy, web),
            client(web) as one,
        ):
            agent = "User-Agent: " + "x" * 1000
            for _ in range(400):
                assert (await one.get("/", agent))[0] == 200
                if proxy.statistics()["access_log"]["dropped"]:
                    break
                await asyncio.sleep(0)
            counted = proxy.statistics()["access_log"]
            assert counted["dropped"] > 0
            got = bytearray()

            def read_on() -> bool:
                with contextlib.suppress(BlockingIOError):
                    got.extend(os.read(reader, 1 << 20))
                return got.count(b"\n") >= counted["lines"]

            await until(read_on, "what was kept arrives")
            assert all(json.loads(line)["status"] == 200 for line in got.splitlines())
    finally:
        os.close(reader)


async def test_a_file_that_was_moved_away_is_opened_again(tmp_path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with (
        serving(echo) as (port, _),
        proxying(configured([port], top=logging(path))) as (proxy, web),
        client(web) as one,
    ):
        await one.get("/1")
        await lines_of(path, 1)
        path.rename(old)
        await one.get("/2")
        await lines_of(old, 2)
        proxy.reopen_logs()
        await one.get("/3")
        assert json.loads((await lines_of(path, 1))[0])["target"] == "/3"
        assert len(old.read_text().splitlines()) == 2


def test_a_replica_opens_its_log_again_on_sigusr1_and_loses_no_line(tmp_path):
    web, app = free_ports(2)
    path, config = tmp_path / "access.log", tmp_path / "fr.toml"
    config.write_text(
        f'workers = 2\nzone = {{ name = "t-log-{web}", size = "1MiB" }}\n{logging(path)}[listeners.web]\n'
        f'bind = "127.0.0.1:{web}"\nroutes = [{{ host = "x.example", pool = "app" }}]\n'
        f'[[pools.app.servers]]\naddress = "127.0.0.1:{app}"\n'
    )
    replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(config)], tmp_path / "out")

    def ask(target: str) -> None:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{web}{target}", timeout=20)

    def total() -> list[str]:
        text = "".join(one.read_text() for one in tmp_path.glob("access.log*"))
        return sorted(json.loads(line)["target"] for line in text.splitlines())

    def wait_for(what, why):
        end = time.monotonic() + 20
        while not what():
            assert time.monotonic() < end, why
            time.sleep(0.01)

    try:
        replica.wait_for_line("ready")
        for n in range(20):
            ask(f"/{n:02}")
        wait_for(lambda: len(total()) == 20, "the first twenty")
        path.rename(tmp_path / "access.log.1")
        os.kill(replica.pid, signal.SIGUSR1)
        wait_for(path.exists, "the file is there again")
        for n in range(20, 40):
            ask(f"/{n:02}")
        os.kill(replica.pid, signal.SIGTERM)
        replica.popen.wait(30)
        assert total() == [f"/{n:02}" for n in range(40)]
        assert path.read_text()
    finally:
        replica.stop()


@pytest.mark.parametrize("path", ["/nowhere/access.log", "/tmp"])
def test_a_path_that_cannot_be_written_is_refused(path):
    with pytest.raises(ConfigError, match="path"):
        loads(f'{logging(pathlib.Path(path))}[listeners.web]\nbind = "127.0.0.1:1"\n' + POOL)


async def test_a_response_from_the_cache_is_logged_with_its_status_and_size(tmp_path):
    path = tmp_path / "access.log"
    with Memcached() as store:
        async with origin() as server:
            server.page("/a", "hello", "Cache-Control: max-age=60")
            top = f'access_log = {{ format = "json", path = "{path}" }}'
            async with proxying(cached([server.port], store.address, top=top)) as (_, web), client(web) as one:
                for _ in range(2):
                    assert (await one.get("/a"))[2] == b"hello"
                found = [json.loads(line) for line in await lines_of(path, 2)]
    assert [(one["status"], one["bytes"], one["pool"]) for one in found] == [(200, 5, "app"), (200, 5, "app")]
    assert [one["server"] for one in found] == ["s1", None]
