"""Clients that we did not write, against a running replica."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import aiohttp
import httpx
import pytest
import requests
import websockets
from websockets.asyncio.client import connect

from tests.soak.server import body_of
from tests.support.fleet import Process, free_ports, running, unlink_zone

BODY = body_of(300_000, 7)  # an odd seed: comes in chunks
EVEN = body_of(70_000, 8)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("clients")
    port, *servers = free_ports(3)
    zone = f"t-clients-{port}"
    config = directory / "fr.toml"
    config.write_text(
        f'secret = "a secret for tests of at least 32 bytes"\ndebug_headers = true\nworkers = 2\n'
        f'zone = {{ name = "{zone}", size = "1MiB" }}\n'
        f'[listeners.web]\nbind = "127.0.0.1:{port}"\npool = "app"\n[pools.app]\n'
        + "".join(f'[[pools.app.servers]]\naddress = "127.0.0.1:{one}"\n' for one in servers)
        + '[pools.app.sticky]\non = "insert"\n'
    )
    processes = [
        Process([sys.executable, "-m", "tests.soak.server", str(one)], directory / f"server-{one}") for one in servers
    ]
    processes.append(Process([sys.executable, "-m", "fastroute", "serve", "-c", str(config)], directory / "log"))
    with running(*processes):
        for one in processes:
            one.wait_for_line("ready")
        yield f"http://127.0.0.1:{port}"
    unlink_zone(zone)


def server_of(field: str) -> str:
    return re.findall(r"server=([^;]+)", field)[0]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(arguments, input=given, capture_output=True, timeout=60, check=True).stdout


def test_curl(url: str, tmp_path: pathlib.Path) -> None:
    curl = [program("curl"), "-sS", "--fail"]
    assert run(*curl, f"{url}/bytes?n=300000&seed=7") == BODY
    assert run(*curl, "--http1.0", f"{url}/bytes?n=300000&seed=7") == BODY
    assert run(*curl, "--data-binary", "@-", f"{url}/echo", given=BODY) == BODY  # large: asks for a 100 first
    assert run(*curl, "-T", "-", "-X", "POST", f"{url}/echo", given=BODY) == BODY  # chunked
    assert run(*curl, *[f"{url}/bytes?n=10&seed=2"] * 20) == body_of(10, 2) * 20
    head = run(*curl, "-I", f"{url}/bytes?n=70000&seed=8").decode()
    assert "content-length: 70000" in head.lower()
    jar = str(tmp_path / "jar")
    told = [
        run(*curl, "-b", jar, "-c", jar, "-D", "-", "-o", "/dev/null", f"{url}/bytes?n=1&seed=2").decode()
        for _ in range(6)
    ]
    assert len({server_of(one) for one in told}) == 1
    half = run(*curl, "--limit-rate", "400k", f"{url}/bytes?n=300000&seed=7")
    assert half == BODY


def test_requests(url: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        served = set()
        for n in range(30):
            answer = session.get(f"{url}/bytes", params={"n": n * 100, "seed": n}, timeout=30)
            assert answer.content == body_of(n * 100, n)
            served.add(server_of(answer.headers["X-Fastroute"]))
        assert len(served) == 1
        assert "fastroute" in session.cookies
        pieces = (BODY[at : at + 10_000] for at in range(0, len(BODY), 10_000))
        assert session.post(f"{url}/echo", data=pieces, timeout=30).content == BODY
        with session.get(f"{url}/bytes?n=300000&seed=7", stream=True, timeout=30) as answer:
            assert b"".join(answer.iter_content(7000)) == BODY
        assert session.head(f"{url}/bytes?n=70000&seed=8", timeout=30).headers["Content-Length"] == "70000"
        assert session.get(f"{url}/nowhere", timeout=30).status_code == 404


def test_httpx(url: str) -> None:
    with httpx.Client(trust_env=False, timeout=30) as client:
        served = {server_of(client.get(f"{url}/bytes?n=9&seed=4").headers["x-fastroute"]) for _ in range(20)}
        assert len(served) == 1
        assert client.post(f"{url}/echo", content=BODY).content == BODY
        assert client.post(f"{url}/echo", content=(bytes([n]) * 5000 for n in range(50))).content[-1:] == b"1"
        with client.stream("GET", f"{url}/bytes?n=300000&seed=7") as answer:
            assert b"".join(answer.iter_bytes(9000)) == BODY


async def test_httpx_async_many_at_once(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/bytes?n=5000&seed={n}") for n in range(100)))
    assert [one.content for one in answers] == [body_of(5000, n) for n in range(100)]


async def test_aiohttp(url: str) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(f"{url}/bytes?n=1&seed=2") as answer:
            served = server_of(answer.headers["X-Fastroute"])

        async def one(n: int) -> None:
            async with session.post(f"{url}/echo", data=body_of(5000, n)) as answer:
                assert await answer.read() == body_of(5000, n)
                assert server_of(answer.headers["X-Fastroute"]) == served

        await asyncio.gather(*(one(n) for n in range(60)))

        async def pieces():  # type: ignore[no-untyped-def]
            for at in range(0, len(BODY), 20_000):
                yield BODY[at : at + 20_000]

        async with session.post(f"{url}/echo", data=pieces(), expect100=True) as answer:
            assert await answer.read() == BODY
        async with session.ws_connect(f"{url}/ws") as socket:
            for n in range(20):
                await socket.send_bytes(body_of(1000, n))
                assert await socket.receive_bytes() == body_of(1000, n)


async def test_websockets(url: str) -> None:
    where = url.replace("http", "ws") + "/ws"
    async with connect(where, proxy=None, max_size=None) as socket:  # with compression
        await socket.send(BODY)
        assert await socket.recv() == BODY
        await (await socket.ping())
        await socket.send([BODY[:1000], BODY[1000:2000]])  # in fragments
        assert await socket.recv() == BODY[:2000]
    assert socket.close_code == 1000
    many = await asyncio.gather(*(connect(where, proxy=None) for _ in range(30)))
    for n, one in enumerate(many):
        await one.send(body_of(50, n))
    assert [await one.recv() for one in many] == [body_of(50, n) for n in range(30)]
    await asyncio.gather(*(one.close() for one in many))
    with pytest.raises(websockets.InvalidStatus):
        await connect(url.replace("http", "ws") + "/nowhere", proxy=None)


def test_h2load_in_http_1_1(url: str) -> None:
    said = run(program("h2load"), "--h1", "-n", "3000", "-c", "30", f"{url}/bytes?n=100&seed=2").decode()
    assert re.search(r"3000 total, .* 3000 done, 3000 succeeded, 0 failed, 0 errored, 0 timeout", said), said
    assert "3000 2xx" in said


def test_h2load_pipelined(url: str) -> None:
    said = run(program("h2load"), "--h1", "-n", "2000", "-c", "4", "-m", "8", f"{url}/bytes?n=100&seed=2").decode()
    assert re.search(r"2000 done, 2000 succeeded, 0 failed, 0 errored", said), said


def test_wrk(url: str) -> None:
    said = run(program("wrk"), "-t1", "-c20", "-d1s", f"{url}/bytes?n=100&seed=3").decode()
    assert "Non-2xx" not in said
    assert "Socket errors" not in said
    assert int(re.findall(r"(\d+) requests in", said)[0]) > 100


PAGE = """
(async () => {
  const sum = async bytes => [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
    .map(one => one.toString(16).padStart(2, "0")).join("");
  const get = async path => (await fetch(path)).arrayBuffer();
  const found = {};
  found.chunked = await sum(await get("/bytes?n=300000&seed=7"));
  found.sized = await sum(await get("/bytes?n=70000&seed=8"));
  const body = new Uint8Array(200000).fill(120);
  found.posted = (await (await fetch("/echo", {method: "POST", body})).arrayBuffer()).byteLength;
  const many = await Promise.all([...Array(30).keys()].map(n => get(`/bytes?n=${n * 100}&seed=${n}`)));
  found.many = many.map(one => one.byteLength);
  const servers = new Set();
  for (let n = 0; n < 10; n++)
    servers.add((await fetch("/bytes?n=1&seed=2")).headers.get("x-fastroute").match(/server=([^;]+)/)[1]);
  found.servers = servers.size;
  const leave = new AbortController();
  const asked = fetch("/bytes?n=300000&seed=9", {signal: leave.signal});
  const left = asked.then(one => one.text()).catch(error => error.name);
  leave.abort();
  found.left = await left;
  found.socket = await new Promise((done, failed) => {
    const socket = new WebSocket(location.href.replace("http", "ws").replace(/\\/[^/]*$/, "/ws"));
    socket.onopen = () => socket.send(new TextEncoder().encode("hello"));
    socket.onerror = socket.onclose = failed;
    socket.onmessage = async message => { done(await message.data.text()); socket.close(); };
  });
  return found;
})()
"""


def test_fetch_of_a_browser(url: str) -> None:
    browser = pytest.importorskip("tests.support.browser")
    if browser.find_browser() is None:
        pytest.skip(browser.SKIP)
    with browser.Browser() as one:
        found = one.open(f"{url}/page").evaluate(PAGE)
    assert found == {
        "chunked": hashlib.sha256(BODY).hexdigest(),
        "sized": hashlib.sha256(EVEN).hexdigest(),
        "posted": 200_000,
        "many": [n * 100 for n in range(30)],
        "servers": 1,
        "left": "AbortError",
        "socket": "hello",
    }
