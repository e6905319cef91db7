"""Requirement 20: another layer that is sticky too is seen and warned of, in front and behind, once."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from fastroute import Zone
from fastroute._core.token import TokenCodec
from fastroute.clock import ManualClock
from fastroute.proxy.layers import FRONT_MIN, LOOKS_MAX
from fastroute.proxy.server import Proxy
from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.fleet import Process, free_ports, running, unlink_zone
from tests.support.relaying import (
    SECRET,
    Handler,
    Seen,
    answer,
    client,
    configured,
    proxying,
    read_request,
    serving,
)

INSERT = 'on = "insert"'

VISITS = 16
"""Fewer than are looked at between two ticks, more than go to one of two workers by chance."""


def setting(*fields: str) -> Handler:
    """A keep-alive server whose answers have these fields."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(seen, reader)
            writer.write(answer(b"ok", 200, *fields))
            await writer.drain()

    return handle


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fastroute.layers"]


async def visited(
    caplog: pytest.LogCaptureFixture,
    *,
    sticky: str = INSERT,
    answers: tuple[str, ...] = (),
    cookies: tuple[str, ...] = ("",),
    rounds: int = 1,
    top: str = "",
) -> list[str]:
    """What is told after requests with these Cookie fields, `rounds` times each, and a tick."""
    async with (
        serving(setting(*answers)) as (port, _),
        proxying(configured([port], sticky=sticky, top=top)) as (proxy, web),
        client(web) as one,
    ):
        for _ in range(rounds):
            for cookie in cookies:
                assert (await one.get("/", *([f"Cookie: {cookie}"] if cookie else [])))[0] == 200
        proxy.tick()
    return told(caplog)


async def test_a_server_that_sets_another_balancers_cookie_is_told_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (line,) = await visited(caplog, answers=("Set-Cookie: SERVERID=web1; path=/",))
    assert line.startswith("pool app: servers set SERVERID, by which HAProxy keeps users on a server")
    assert 'sticky.ignore_layers = ["SERVERID"]' in line
    assert "web1" not in line, "no value is told"


async def test_one_layer_that_sets_several_cookies_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = ("Set-Cookie: AWSALB=abc; Path=/", "Set-Cookie: AWSALBCORS=abc; Path=/; SameSite=None; Secure")
    assert len(await visited(caplog, answers=answers, rounds=5)) == 1


async def test_requests_with_another_balancers_cookie_are_told_once_there_are_enough(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cookies = ("a=1; BIGipServerweb=1342248108.20480.0000; b=2",)
    assert await visited(caplog, cookies=cookies, rounds=FRONT_MIN - 1) == []
    (line,) = await visited(caplog, cookies=cookies, rounds=FRONT_MIN)
    assert line.startswith("pool app: requests carry BIGipServer*, by which F5 BIG-IP keeps users on a server")


async def test_a_few_cookies_among_many_requests_are_somebodys_own(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving(setting()) as (port, _),
        proxying(configured([port], sticky=INSERT)) as (proxy, web),
        client(web) as one,
    ):
        for turn in range(FRONT_MIN + 2):
            for _ in range(LOOKS_MAX - 1):
                await one.get("/")
            await one.get("/", f"Cookie: GCLB=x{turn}")
            proxy.tick()
    assert told(caplog) == []


async def test_cookies_that_servers_set_are_not_taken_for_a_layer_in_front(caplog: pytest.LogCaptureFixture) -> None:
    answers, cookies = ("Set-Cookie: SRV=s1; path=/",), ("SRV=s1",)
    (line,) = await visited(caplog, answers=answers, cookies=cookies, rounds=3 * FRONT_MIN)
    assert line.startswith("pool app: servers set SRV")


async def test_a_cookie_that_is_taken_back_is_no_sign(caplog: pytest.LogCaptureFixture) -> None:
    answers = ("Set-Cookie: SERVERID=; path=/", "Set-Cookie: SRV=gone; Expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/")
    assert await visited(caplog, answers=answers) == []


async def test_cookies_of_ours_and_of_the_application_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    own = codec.sign_text(b"k" * 16, codec.server_digest("s1"), 7, 1, int(time.time() // 60))
    old = TokenCodec([b"a secret that was rotated out long ago"], "fr", "affinity:app")
    gone = old.sign_text(b"k" * 16, 3, 7, 1, int(time.time() // 60))
    answers = (f"Set-Cookie: fastroute={own}; Path=/", f"Set-Cookie: elsewhere={own}", "Set-Cookie: sid=5; Path=/")
    cookies = (f"fastroute={own}; sid=5", f"fastroute={gone}", "JSESSIONID=abc.node1; _ga=GA1.2.3.4")
    assert await visited(caplog, answers=answers, cookies=cookies, rounds=2 * FRONT_MIN) == []


async def test_the_cookie_that_the_pool_is_bound_by_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    sticky, answers = 'on = "cookie:SERVERID"', ("Set-Cookie: SERVERID=5; Path=/",)
    assert await visited(caplog, sticky=sticky, answers=answers, cookies=("SERVERID=5",), rounds=2 * FRONT_MIN) == []


async def test_a_cookie_of_another_fastroute_fleet_is_told(caplog: pytest.LogCaptureFixture) -> None:
    codec = TokenCodec([b"a secret of another fleet, 32 bytes."], "edge", "affinity:app")
    token = codec.sign_text(b"k" * 16, 3, 7, 1, int(time.time() // 60))
    (line,) = await visited(caplog, answers=(f"Set-Cookie: fastroute={token}; Path=/",))
    assert line.startswith("pool app: servers set fastroute, by which another fastroute fleet keeps users on a server")
    caplog.clear()
    (line,) = await visited(caplog, cookies=(f"edge={token}",), rounds=FRONT_MIN)
    assert line.startswith("pool app: requests carry edge, by which another fastroute fleet")
    assert token not in line


@pytest.mark.parametrize("ignored", ['["SERVERID"]', '["SR*", "SERVER*"]', '["*"]'])
async def test_what_is_meant_to_be_there_is_not_told(ignored: str, caplog: pytest.LogCaptureFixture) -> None:
    sticky, answers = f"{INSERT}\nignore_layers = {ignored}", ("Set-Cookie: SERVERID=web1; path=/",)
    assert await visited(caplog, sticky=sticky, answers=answers, cookies=("SERVERID=web1",), rounds=FRONT_MIN) == []


async def test_a_pool_that_does_not_stick_looks_at_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answers = ("Set-Cookie: SERVERID=web1; path=/",)
    assert await visited(caplog, sticky="", answers=answers, cookies=("SERVERID=web1",), rounds=FRONT_MIN) == []


async def test_it_is_told_again_after_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with serving(setting("Set-Cookie: SERVERID=web1; path=/")) as (port, _):
        config = configured([port], sticky=INSERT)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        try:
            async with Proxy(config, sockets={"web": [listening]}, clock=clock) as proxy:
                counts = []
                for advance_s in (0, 3600, 80_000, 3600, 3600):
                    clock.advance(advance_s)
                    proxy.tick()
                    async with client(listening.getsockname()[1]) as one:
                        assert (await one.get())[0] == 200
                    proxy.tick()
                    counts.append(len(told(caplog)))
        finally:
            Zone.unlink(config.zone.name)
    assert counts == [1, 1, 1, 2, 2]


HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen a
  bind 127.0.0.1:{bind}
  cookie SERVERID insert nocache
  server s1 127.0.0.1:{to} cookie s1
"""


async def test_a_real_haproxy_in_front_and_behind_is_seen(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    front, behind = free_ports(2)
    async with serving(setting()) as (port, _):
        (tmp_path / "behind.cfg").write_text(HAPROXY.format(bind=behind, to=port))
        with running(Process([haproxy, "-db", "-f", str(tmp_path / "behind.cfg")], tmp_path / "behind")):
            await accepting(behind)
            async with proxying(configured([behind], sticky=INSERT)) as (proxy, web), client(web) as one:
                assert "SERVERID=s1" in (await one.get())[1]["set-cookie"]
                proxy.tick()
        (line,) = told(caplog)
        assert line.startswith("pool app: servers set SERVERID")
        caplog.clear()
        async with proxying(configured([port], sticky=INSERT)) as (proxy, web):
            (tmp_path / "front.cfg").write_text(HAPROXY.format(bind=front, to=web))
            with running(Process([haproxy, "-db", "-f", str(tmp_path / "front.cfg")], tmp_path / "front")):
                await accepting(front)
                async with client(front) as one:
                    cookie = re.findall(r"SERVERID=\w+", (await one.get())[1]["set-cookie"])[0]
                    for _ in range(FRONT_MIN):
                        assert (await one.get("/", f"Cookie: {cookie}"))[0] == 200
                proxy.tick()
        (line,) = told(caplog)
        assert line.startswith("pool app: requests carry SERVERID")


async def accepting(port: int) -> None:
    """Until somebody listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            return


async def test_a_replica_of_two_workers_tells_it_once_and_its_admin_interface_knows(tmp_path: pathlib.Path) -> None:
    web, admin_port = free_ports(2)
    zone = f"layerstest{os.getpid()}"
    async with serving(setting("Set-Cookie: SERVERID=web1; path=/")) as (port, _):
        replica = start_administered(
            tmp_path, "fr", port=web, admin_port=admin_port, upstream_ports=[port], zone=zone, workers=2
        )
        with running(replica):
            admin = Admin(admin_port)

            def visit() -> None:
                for _ in range(VISITS):  # one connection each, so that both workers get some
                    assert CLIENT.get(f"http://127.0.0.1:{web}/").status_code == 200

            def counted() -> bool:
                return admin.total("fastroute_sticky_layers_seen_total", pool="app", side="servers") >= VISITS

            await asyncio.to_thread(visit)
            await asyncio.to_thread(until, counted, "sightings are counted")
            pool = await asyncio.to_thread(admin.get, "/api/v1/pools/app")
            table = await asyncio.to_thread(admin.ask, "GET", "/api/v1/pools")
            asked = ["fastroute", "ctl", "--admin", f"127.0.0.1:{admin_port}", "pools"]
            shown = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", *asked], capture_output=True, text=True, timeout=60, check=True
            )
        unlink_zone(zone)
    (warning,) = pool["warnings"]
    assert (warning["kind"], warning["side"], warning["cookie"]) == ("sticky-layer", "servers", "SERVERID")
    assert "sticky too" in warning["text"]
    assert table.json()["pools"][0]["warnings"] == [warning]
    assert "sticky too, servers: HAProxy" in shown.stdout
    assert replica.output().count("servers set SERVERID") == 1
