"""The admin listener of a real replica: two workers, three servers, memcached; asked by curl, httpx and raw sockets."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from fastroute.admin.http import AdminServer, Request, Response, json_response
from tests.support.admin import CLIENT, READ_TOKEN, TOKEN, WAIT_S, Admin, start_administered, until
from tests.support.fleet import Process, free_ports, running, start_upstreams, unlink_zone
from tests.support.loops import on_each_loop
from tests.support.memcached import Memcached
from tests.support.relaying import until as loop_until

ZONE = f"admintest{os.getpid()}"


class Site:
    """A replica and what stands around it."""

    def __init__(self, replica: Process, web: int, admin: int, upstreams: list[int]) -> None:
        self.replica, self.web, self.admin = replica, web, Admin(admin)
        self.names = [f"up-{port}" for port in upstreams]

    def visit(self, *users: str) -> list[str]:
        """Which server answers each of them; new connections, so that both workers are asked."""
        found = []
        for user in users:
            answer = CLIENT.get(f"http://127.0.0.1:{self.web}/", headers={"Cookie": f"sid={user}"})
            assert answer.status_code == 200
            found.append(answer.headers["x-served-by"])
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("admin")
    *upstreams, web, admin = free_ports(5)
    with Memcached() as store, running(*start_upstreams(directory, upstreams)):
        replica = start_administered(
            directory,
            "fr",
            port=web,
            admin_port=admin,
            upstream_ports=upstreams,
            zone=ZONE,
            workers=2,
            memcached=[store.address],
        )
        with running(replica):
            yield Site(replica, web, admin, upstreams)
    unlink_zone(ZONE)


@pytest.fixture(autouse=True)
def nothing_stays_ordered(site: Site) -> Iterator[None]:
    yield
    for name in site.names:
        if site.admin.server(name)["order"]:
            site.admin.order(name, state="ready", weight=None)


def test_a_drain_keeps_bound_users_and_takes_no_new_one(site: Site) -> None:
    users = [f"drain-{n}" for n in range(30)]
    before = site.visit(*users)
    drained = site.names[0]
    told = site.admin.order(drained, state="draining")
    assert (told["state"], told["workers"], told["workers_following"]) == ("draining", 2, 2)
    assert told["bindings"] >= 10
    assert site.visit(*users) == before, "bound users stay"
    assert drained in before
    fresh = site.visit(*(f"drain-new-{n}" for n in range(20)))
    assert drained not in fresh
    assert site.admin.order(drained, state="ready")["state"] == "ready"
    assert drained in site.visit(*(f"drain-later-{n}" for n in range(9)))


def test_maintenance_moves_bound_users_and_ready_lets_the_server_in_again(site: Site) -> None:
    users = [f"maint-{n}" for n in range(9)]
    before = site.visit(*users)
    out = before[0]
    site.admin.order(out, state="maintenance")
    after = site.visit(*users)
    assert out not in after
    assert [b for a, b in zip(before, after, strict=True) if a != out] == [a for a in before if a != out]
    site.admin.order(out, state="ready")
    assert site.visit(*users) == after, "nobody is yanked back"


def test_a_weight_changes_shares_and_null_gives_the_files_back(site: Site) -> None:
    light, heavy = site.names[0], site.names[1]
    assert site.admin.order(heavy, weight=5)["weight"] == 5
    site.admin.order(light, weight=0)
    found = site.visit(*(f"weight-{n}" for n in range(24)))
    assert found.count(light) == 0
    assert found.count(heavy) >= 15
    told = site.admin.order(heavy, weight=None)
    assert (told["weight"], told["order"]) == (1, None)


def test_new_workers_get_the_present_state(site: Site) -> None:
    out = site.names[2]
    site.admin.order(out, state="draining")
    pids = {row["pid"] for row in site.admin.get("/api/v1/statistics")["workers"]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: (
            (rows := site.admin.get("/api/v1/statistics")["workers"])
            and len(rows) == 2
            and all(row["accepting"] for row in rows)
            and not pids & {row["pid"] for row in rows}
        ),
        "two new workers",
    )
    assert site.admin.server(out)["states"] == {"draining": 2}
    assert out not in site.visit(*(f"present-{n}" for n in range(12)))


def test_counters_continue_over_a_workers_kill(site: Site) -> None:
    site.visit(*(f"count-{n}" for n in range(12)))
    before = site.admin.metrics()
    victim = site.admin.get("/api/v1/statistics")["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        rows = site.admin.get("/api/v1/statistics")["workers"]
        after = site.admin.metrics()
        for name in before:
            if name.endswith(("_total", "_count", "_bucket", "_sum")):
                for labels, value in before[name].items():
                    assert after[name][labels] >= value, f"{name}{labels} went back"
        return len(rows) == 2 and victim not in {row["pid"] for row in rows} and all(row["accepting"] for row in rows)

    until(replaced, "a new worker")
    total = site.admin.total("fastroute_requests_total", pool="app")
    site.visit(*(f"count-again-{n}" for n in range(10)))
    assert site.admin.total("fastroute_requests_total", pool="app") == total + 10
    assert site.admin.total("fastroute_server_in_flight") == 0


def test_the_scrape_says_what_happened(site: Site) -> None:
    metrics = site.admin.metrics
    before = metrics()
    found = site.visit(*(f"scrape-{n}" for n in range(8)), "scrape-0")
    after = metrics()

    def grew(name: str, **labels: str) -> float:
        def total(of: dict) -> float:
            return sum(value for key, value in of[name].items() if set(labels.items()) <= set(key))

        return total(after) - total(before)

    assert grew("fastroute_requests_total", pool="app", code="2xx") == 9
    assert grew("fastroute_requests_total", server=found[1]) == found.count(found[1])
    assert grew("fastroute_request_duration_seconds_count", pool="app") == 9
    assert grew("fastroute_selections_total", pool="app") == 9
    assert grew("fastroute_selections_total", reason="policy") == 8
    assert after["fastroute_bindings"][(("pool", "app"),)] >= 8
    assert after["fastroute_server_state"][(("pool", "app"), ("server", site.names[0]), ("state", "ready"))] == 1
    assert set(after["fastroute_store_up"].values()) == {1}
    until(lambda: site.admin.total("fastroute_claims_total", result="won") > 8, "claims are told twice a second")
    assert sum(after["fastroute_near_mode"].values()) == 1
    until(lambda: site.admin.total("fastroute_near_mode", mode="push") == 1, "a worker listens, not the admin process")
    assert after["fastroute_build_info"]
    assert after["fastroute_workers"][(("state", "accepting"),)] == 2


CONTRACT = [
    "fastroute_requests_total",
    "fastroute_request_duration_seconds_bucket",
    "fastroute_selections_total",
    "fastroute_server_state",
    "fastroute_server_in_flight",
    "fastroute_server_weight",
    "fastroute_bindings",
    "fastroute_claims_total",
    "fastroute_moves_total",
    "fastroute_store_up",
    "fastroute_store_roundtrip_seconds_bucket",
    "fastroute_store_errors_total",
    "fastroute_near_mode",
    "fastroute_cookie_rejected_total",
    "fastroute_limits_hit_total",
    "fastroute_retries_total",
    "fastroute_health_flips_total",
    "fastroute_downstream_connections",
    "fastroute_config_reloads_total",
    "fastroute_build_info",
]


def test_a_scrape_wakes_no_worker(site: Site) -> None:
    scrapes = 100

    def wakes() -> int:
        """Times that the workers waited so far."""
        pids = [one["pid"] for one in site.admin.get("/api/v1/statistics")["workers"] if one["accepting"]]
        assert len(pids) == 2
        status = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", one, re.M)[1]) for one in status)

    before, began_s = wakes(), time.monotonic()
    for _ in range(scrapes):
        site.admin.ask("GET", "/metrics")
    during, passed_s = wakes() - before, time.monotonic() - began_s
    before = wakes()
    time.sleep(passed_s)  # the measurement itself: what their timers come to in the same time
    alone = wakes() - before
    print(f"{during} wakes during {scrapes} scrapes, {alone} without")
    assert during <= 2 * alone + scrapes // 2


def test_every_metric_of_the_contract_is_there(site: Site) -> None:
    assert set(CONTRACT) <= set(site.admin.metrics())
    assert "# TYPE fastroute_cache_requests_total counter" in site.admin.ask("GET", "/metrics").text


def test_the_page_of_metrics_names_every_family(site: Site) -> None:
    page = pathlib.Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text()
    for line in site.admin.ask("GET", "/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            assert f"`{line.split()[2]}" in page, line


# Who may what -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Cookie": f"token={TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 421),
    ],
)
def test_a_change_without_the_token_changes_nothing(site: Site, headers: dict[str, str], status: int) -> None:
    path = f"/api/v1/pools/app/servers/{site.names[0]}"
    anonymous = Admin(site.admin.port, None)
    answer = anonymous.ask("POST", path, {"state": "maintenance"}, **headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail", "hint"}
    assert TOKEN not in answer.text
    assert site.admin.server(site.names[0])["state"] == "ready"


def test_on_the_loopback_reading_takes_no_token_and_a_wrong_one_is_told(site: Site) -> None:
    assert Admin(site.admin.port, None).get("/api/v1/pools")["pools"][0]["name"] == "app"
    assert Admin(site.admin.port, "wrong").ask("GET", "/metrics").status_code == 401


def test_no_secret_is_shown_anywhere(site: Site) -> None:
    texts = [site.admin.ask("GET", path).text for path in ("/", "/metrics", "/api/v1/statistics", "/api/v1/pools")]
    texts.append(site.replica.output())
    for text in texts:
        assert TOKEN not in text
        assert READ_TOKEN not in text
        assert "secret for tests" not in text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "/api/v1/nothing", None, 404, "not-found"),
        ("GET", "/api/v1/pools/none", None, 404, "no-such-pool"),
        ("GET", "/api/v1/pools/app/servers/none", None, 404, "no-such-server"),
        ("GET", "/api/v1/explain/app", None, 400, "no-key"),
        ("DELETE", "/api/v1/pools", None, 405, "method"),
        ("GET", "/api/v1/reload", None, 405, "method"),
        ("POST", "/metrics", None, 405, "method"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {}, 400, "nothing"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": "down"}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": None}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"weight": -1}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"weight": True}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"weight": 1 << 20}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": "draining", "x": 1}, 400, "unknown-key"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": "draining", "by": ""}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": "ready", "deadline": "1m"}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers", {"address": "127.0.0.1"}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers", {"name": "x"}, 400, "refused"),
        ("DELETE", "/api/v1/pools/app/servers/nobody", None, 404, "no-such-server"),
        ("DELETE", "/api/v1/pools/app", None, 405, "method"),
        ("POST", "/api/v1/pools/app/servers/SERVER", {"state": "draining", "scope": "all"}, 400, "refused"),
        ("POST", "/api/v1/pools/app/servers/SERVER", ["draining"], 400, "malformed"),
        ("POST", "/api/v1/affinity/app/release", {}, 400, "no-key"),
        ("POST", "/api/v1/purge", {"tag": "x"}, 400, "no-cache"),
        ("POST", "/api/v1/purge", {"tag": "x", "url": "http://a.example/"}, 400, "what"),
        ("POST", "/api/v1/purge", {"tag": "x", "soft": 1}, 400, "refused"),
    ],
)
def test_what_is_refused_says_why(site: Site, method: str, path: str, body: object, status: int, word: str) -> None:
    answer = site.admin.ask(method, path.replace("SERVER", site.names[0]), body)
    assert (answer.status_code, answer.json()["error"]) == (status, word)
    assert site.admin.server(site.names[0])["order"] is None


# A hostile client ---------------------------------------------------------------------------------------------------


def raw(site: Site, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", site.admin.port), timeout=40) as client:
        client.sendall(data)
        found = b""
        while piece := client.recv(65536):
            found += piece
        return found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 20000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"431"),
        (b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"400"),
        (b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    ],
    ids=["long-line", "long-head", "many-fields", "chunked", "long-body", "two-hosts", "tls", "no-utf8", "absolute"],
)
def test_a_hostile_request_is_answered_and_closed(site: Site, data: bytes, status: bytes) -> None:
    answer = raw(site, data)
    assert answer.split(b" ", 2)[1] == status, answer[:200]
    assert b"Connection: close" in answer
    assert site.admin.get("/healthz") == {"alive": True}


def test_more_connections_than_allowed_are_told_and_the_listener_goes_on(site: Site) -> None:
    held = [socket.create_connection(("127.0.0.1", site.admin.port), timeout=40) for _ in range(64)]
    try:
        assert b" 503 " in raw(site, b"").split(b"\r\n")[0]
    finally:
        for one in held:
            one.close()
    until(lambda: site.admin.ask("GET", "/healthz").status_code == 200, "it answers again")


@on_each_loop
async def test_who_has_connected_before_the_listener_ends_is_answered() -> None:
    async def answer(request: Request) -> Response:
        return json_response(request.path)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        server = AdminServer(answer, listening)
        await server.start()
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        await loop_until(lambda: server.connections, "it is connected")
        ending = asyncio.create_task(server.aclose(WAIT_S))
        await asyncio.sleep(0)
        writer.write(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'["a"]' in await reader.read()
        assert not ending.done()
        writer.close()
        await ending


def test_one_request_is_answered_per_connection(site: Site) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(site, ask + ask).count(b"HTTP/1.1 ") == 1
    assert raw(site, ask.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")


# The rest of the interface ------------------------------------------------------------------------------------------


def test_curl_reads_and_changes(site: Site) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    base = ["-sS", "-m", "10", f"http://127.0.0.1:{site.admin.port}"]

    def run(path: str, *more: str) -> str:
        return subprocess.run(
            [curl, *base[:-1], base[-1] + path, *more], capture_output=True, text=True, check=True
        ).stdout

    assert json.loads(run("/api/v1/pools/app"))["name"] == "app"
    authorized = ("-H", f"Authorization: Bearer {TOKEN}", "-d", '{"state": "draining"}')
    assert json.loads(run(f"/api/v1/pools/app/servers/{site.names[0]}", *authorized))["state"] == "draining"


def test_a_binding_is_found_explained_and_released(site: Site) -> None:
    (served,) = site.visit("found")
    told = site.admin.get("/api/v1/affinity/app?key=found")
    assert (told["bound"], told["server"]) == (True, served)
    assert told["store"]["status"] == "hit"
    explained = site.admin.get("/api/v1/explain/app?key=found")
    assert explained["pick"] == served
    site.admin.order(served, state="draining")
    assert site.admin.post("/api/v1/affinity/app/release", {"key": "found"})["result"] == "released"
    assert site.admin.get("/api/v1/affinity/app?key=found")["bound"] is False
    assert site.visit("found") != [served]


def test_readyz_says_why_not(site: Site) -> None:
    assert site.admin.ask("GET", "/readyz").status_code == 200
    for name in site.names:
        told = site.admin.order(name, state="draining")
    assert "no ready server" in told["warning"]
    answer = site.admin.ask("GET", "/readyz")
    assert answer.status_code == 503
    assert "no ready server" in answer.json()["reasons"][0]


def test_the_admin_process_is_replaced_and_orders_stay(site: Site) -> None:
    site.admin.order(site.names[0], state="draining")
    children = pathlib.Path(f"/proc/{site.replica.pid}/task/{site.replica.pid}/children").read_text().split()
    workers = {row["pid"] for row in site.admin.get("/api/v1/statistics")["workers"]}
    (admin,) = {int(pid) for pid in children} - workers
    os.kill(admin, signal.SIGKILL)
    assert site.admin.server(site.names[0])["state"] == "draining"


def test_a_reload_is_answered_with_its_outcome(site: Site, tmp_path: pathlib.Path) -> None:
    config = pathlib.Path(site.replica.popen.args[-1])  # type: ignore[index]
    text = config.read_text()
    assert site.admin.post("/api/v1/reload")["detail"] == "nothing has changed"
    config.write_text(text.replace("[listeners.web]", "[listeners.wen]\nxyzzy = 1"))
    refused = site.admin.ask("POST", "/api/v1/reload")
    assert (refused.status_code, refused.json()["error"]) == (409, "refused")
    assert "xyzzy" in refused.json()["detail"]
    site.admin.order(site.names[0], weight=3)
    before = site.admin.total("fastroute_requests_total")
    config.write_text(text.replace('ttl = "30m"', 'ttl = "31m"'))
    assert "2 workers" in site.admin.post("/api/v1/reload")["detail"]
    until(lambda: site.admin.server(site.names[0])["states"] == {"ready": 2}, "only the new workers speak")
    assert site.admin.server(site.names[0])["weight"] == 3, "orders outlive a reload"
    assert site.admin.total("fastroute_requests_total") >= before
    assert site.admin.total("fastroute_config_reloads_total", result="refused") == 1
    config.write_text(text)
    site.admin.post("/api/v1/reload")
