"""What `POST /api/v1/purge` and `fastroute ctl purge` answer: done, refused, not confirmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys

import pytest

from tests.support.admin import READ_TOKEN, TOKEN, Admin
from tests.support.cache_proxies import Proxies, caching_proxies
from tests.support.caching import Origin, origin
from tests.support.fleet import free_ports
from tests.support.relaying import Client, client

URL = "http://a.example/page?x=1"


class Site:
    def __init__(self, server: Origin, one: Client, proxies: Proxies, admin: Admin, token: pathlib.Path) -> None:
        self.server, self.one, self.proxies, self.admin, self.token = server, one, proxies, admin, token

    async def ask(self, body: object, token: str | None = TOKEN) -> tuple[int, dict]:
        answer = await asyncio.to_thread(Admin(self.admin.port, token).ask, "POST", "/api/v1/purge", body)
        return answer.status_code, answer.json()

    async def ctl(self, *words: str, fleet: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{self.admin.port}"]
        command += ["--token-file", str(self.token), *(["--fleet"] if fleet else []), "purge", *words]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
async def site(tmp_path):
    (port,) = free_ports(1)
    tokens = {"token": TOKEN, "read_token": READ_TOKEN}
    for name, text in tokens.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    lines = "".join(f'{name} = "file:{tmp_path / name}"\n' for name in tokens)
    more = f'timeout = "2s"\n[admin]\nbind = "127.0.0.1:{port}"\n{lines}'
    async with origin() as server, contextlib.AsyncExitStack() as stack:
        proxies = stack.enter_context(caching_proxies("fastroute", server.port, directory=tmp_path, more=more))
        one = await stack.enter_async_context(client(proxies.ports[0]))
        yield Site(server, one, proxies, Admin(port), tmp_path / "token")


async def test_purges_are_answered_to_the_letter_and_by_the_operators_token_alone(site):
    server, one = site.server, site.one
    server.page("/page?x=1", "old", "Cache-Control: max-age=600", "Surrogate-Key: t1")
    assert (await one.get("/page?x=1"))[2] == b"old"
    server.page("/page?x=1", "new", "Cache-Control: max-age=600", "Surrogate-Key: t1")

    for token, status in ((None, 401), ("wrong", 401), (READ_TOKEN, 403)):
        found, told = await site.ask({"url": URL}, token)
        assert (found, set(told)) == (status, {"error", "detail", "hint"}), told
    for body in ({}, {"url": ""}, {"url": 7}, {"url": URL, "tag": "t1"}, {"urls": URL}, {"url": "/page?x=1"}, ["url"]):
        found, told = await site.ask(body)
        assert (found, set(told)) == (400, {"error", "detail", "hint"}), (body, told)
    found, told = await site.ask({"namespace": "no-such-pool"})
    assert found == 400
    assert "app" in told["detail"]
    found, told = await site.ask({"tag": "t1", "soft": True})
    assert found == 400
    assert (await one.get("/page?x=1"))[2] == b"old"  # nothing of that did anything

    assert await site.ask({"url": URL}) == (200, {"url": URL, "soft": False, "pools": ["app"]})
    assert await site.ask({"url": URL, "soft": True}) == (200, {"url": URL, "soft": True, "pools": ["app"]})
    assert await site.ask({"tag": "t1"}) == (200, {"tag": "t1", "soft": False, "pools": ["app"]})
    assert await site.ask({"namespace": "app"}) == (200, {"namespace": "app", "soft": False, "pools": ["app"]})
    async with asyncio.timeout(10):
        while (await one.get("/page?x=1"))[2] != b"new":
            await asyncio.sleep(0.02)

    done = await site.ctl("--json", "--url", URL)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"url": URL, "soft": False, "pools": ["app"]})
    done = await site.ctl(URL, "--soft")
    assert (done.returncode, done.stdout) == (0, "purged in app\n")
    assert (await site.ask({"tag": "t1", "scope": "fleet", "by": "ann"}))[0] == 200
    assert (await site.ask({"tag": "t1", "scope": "everywhere"}))[0] == 400
    done = await site.ctl("--tag", "t1", fleet=True)
    assert (done.returncode, done.stdout) == (0, "purged in app\n")
    twice = (URL, "--url", URL)
    for words, status in ((("--url", "nonsense"), 1), ((), 2), (("--url", URL, "--tag", "t1"), 2), (twice, 2)):
        done = await site.ctl(*words)
        assert done.returncode == status, (words, done)
        assert len(done.stderr.strip().splitlines()) >= 1
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["Surrogate-Key: x t1", "Cache-Tag: x y, t1", 'Cache-Groups: "x", "t1"'])
async def test_a_tag_is_purged_whichever_field_it_stands_in(site, line):
    server, one = site.server, site.one
    server.page("/tagged", "old", "Cache-Control: max-age=600", line)
    server.page("/other", "old", "Cache-Control: max-age=600", line.replace("t1", "t2"))
    for path in ("/tagged", "/other"):
        assert (await one.get(path))[2] == b"old"
        server.pages[path].body = b"new"
    assert (await site.ask({"tag": "t1"}))[0] == 200
    async with asyncio.timeout(10):
        while (await one.get("/tagged"))[2] != b"new":
            await asyncio.sleep(0.02)
    assert (await one.get("/other"))[2] == b"old"


async def test_a_purge_that_a_node_did_not_confirm_is_no_success(site):
    assert await site.ask({"url": URL}) == (200, {"url": URL, "soft": False, "pools": ["app"]})
    site.proxies.memcached.kill()
    for body in ({"url": URL}, {"url": URL, "soft": True}, {"tag": "t1"}, {"namespace": "app"}):
        found, told = await site.ask(body)
        assert (found, told["error"]) == (409, "unconfirmed"), told
        assert "app" in told["detail"]
    done = await site.ctl("--url", URL)
    assert done.returncode == 1
    assert "not confirmed by every node" in done.stderr
    site.proxies.memcached.start()
    async with asyncio.timeout(20):
        while (await site.ask({"url": URL}))[0] != 200:
            await asyncio.sleep(0.05)
