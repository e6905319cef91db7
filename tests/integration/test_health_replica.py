"""Active checks of one real replica of two workers: servers turn bad and good again, seen by its admin listener."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.checked import CheckedServers
from tests.support.fleet import Process, free_ports, running, unlink_zone

ZONE = f"healthtest{os.getpid()}"
CHECK = '[pools.app.health]\ncheck = "http"\ninterval = "100ms"\nfast_interval = "50ms"\ntimeout = "2s"\n{more}'


class Site:
    def __init__(self, servers: CheckedServers, replica: Process, web: int, admin: int) -> None:
        self.servers, self.replica, self.web, self.admin = servers, replica, web, Admin(admin)

    def state(self, index: int) -> str:
        """What all workers say; "" while they differ."""
        told = self.admin.server(self.servers[index].name)
        return told["state"] if len(told["states"]) == 1 else ""

    def until(self, index: int, state: str) -> None:
        until(lambda: self.state(index) == state, f"server {index} {state}: {self.replica.output()[-2000:]}")

    def visit(self, count: int) -> set[str]:
        """Who serves so many new users."""
        found = set()
        for i in range(count):
            answer = CLIENT.get(f"http://127.0.0.1:{self.web}/", headers={"Cookie": f"sid=u{time.monotonic_ns()}-{i}"})
            assert answer.status_code == 200, answer.text
            found.add(answer.headers["x-served-by"])
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("health")
    web, admin = free_ports(2)
    with CheckedServers(3) as servers:
        replica = start_administered(
            directory,
            "fr",
            port=web,
            admin_port=admin,
            upstream_ports=servers.ports,
            zone=ZONE,
            workers=2,
            pool_more="",
            sticky_more=CHECK.format(more="rise = 2\nfall = 2\n") + '[pools.app.slow_start]\nwindow = "2s"\n',
        )
        with running(replica):
            made = Site(servers, replica, web, admin)
            for server in servers.all:
                until(lambda one=server: made.admin.server(one.name)["last_check"].get("ok"), "it is checked")
            yield made
    unlink_zone(ZONE)


@pytest.fixture(autouse=True)
def well(site: Site) -> Iterator[None]:
    yield
    for i, server in enumerate(site.servers.all):
        server.status, server.delay_s, server.body = 200, 0.0, b""
        if not server.listening:
            server.open()
        site.until(i, "ready")


def test_a_server_whose_answers_turn_bad_goes_down_in_all_workers_and_comes_back(site: Site):
    site.servers[0].status = 503
    site.until(0, "down")
    told = site.admin.server(site.servers[0].name)
    assert told["states"] == {"down": 2}
    assert told["last_check"]["ok"] is False
    assert told["last_check"]["detail"] == "503, which is not expected"
    assert site.visit(6) == {site.servers[1].name, site.servers[2].name}
    site.servers[0].status = 200
    site.until(0, "ready")
    told = site.admin.server(site.servers[0].name)
    assert told["last_check"]["ok"] is True
    assert told["last_check"]["checks"] > told["last_check"]["failed"] > 1
    assert told["weight_effective"] < 1  # it is on its ramp
    assert site.admin.total("fastroute_health_flips_total", server=site.servers[0].name, to="down") >= 2


def test_each_flip_is_logged_once_with_its_reason(site: Site):
    site.servers[1].close()
    site.until(1, "down")
    site.servers[1].open()
    site.until(1, "ready")
    lines = [line for line in site.replica.output().splitlines() if site.servers[1].name in line]
    assert sum("is down: refused" in line for line in lines) == 1
    assert sum("is up again: 200" in line for line in lines) == 1


def test_checks_never_take_the_last_servers_out(site: Site):
    site.servers[0].status = site.servers[1].status = 500
    for i in range(2):
        site.until(i, "down")
    assert site.visit(6) == {site.servers[2].name}
    for server in site.servers.all:
        server.status = 500
    for i in range(3):
        site.until(i, "down")
    assert site.visit(12) == {server.name for server in site.servers.all}


def test_an_operators_order_outranks_checks_and_its_end_leaves_what_they_say(site: Site):
    name = site.servers[2].name
    site.admin.order(name, state="draining")
    site.servers[2].status = 404
    until(lambda: site.admin.server(name)["last_check"]["ok"] is False, "a check fails")
    assert site.state(2) == "draining"
    site.admin.order(name, state="ready")
    site.until(2, "down")


def test_another_worker_takes_over_when_the_one_that_asks_is_killed(site: Site):
    before = len(site.servers[0].checks)
    pids = [worker["pid"] for worker in site.admin.get("/api/v1/statistics")["workers"]]
    for pid in pids:  # one after the other: one of them is the one that asks
        os.kill(pid, signal.SIGKILL)
        site.admin.get("/api/v1/statistics")
        until(
            lambda pid=pid: [
                one for one in site.admin.get("/api/v1/statistics")["workers"] if one["pid"] != pid and one["accepting"]
            ][1:],
            "two workers again",
        )
    until(lambda: len(site.servers[0].checks) > before + 3, "checks go on")
    site.servers[0].status = 503
    site.until(0, "down")


def test_another_worker_takes_over_when_the_one_that_asks_is_stopped(site: Site):
    for worker in site.admin.get("/api/v1/statistics")["workers"]:  # one of them is the one that asks
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            before = len(site.servers[0].checks)
            until(lambda before=before: len(site.servers[0].checks) > before + 2, "checks go on")
        finally:
            os.kill(worker["pid"], signal.SIGCONT)


def test_a_heavy_check_is_logged_and_made_more_rarely(site: Site):
    server = site.servers[1]
    server.delay_s = 1.1  # more than half of the time limit
    until(lambda: f"the check of server {server.name} is heavy: the answer took" in site.replica.output(), "a warning")
    server.delay_s = 0.0
    checks = len(server.checks)
    until(lambda: len(server.checks) > checks + 6, "it is asked as often as before")
    server.body = b"x" * 70_000
    until(lambda: f"server {server.name} is heavy: the answer has more" in site.replica.output(), "a warning")
    server.checks.clear()
    until(lambda: len(server.checks) > 2, "it is asked")
    until(lambda: server.checks[-1] - server.checks[-2] > 0.5, "more rarely")
    assert site.state(1) == "ready"


def test_one_check_at_a_time_and_at_the_configured_rate(site: Site):
    server = site.servers[2]
    until(lambda: len(server.checks) > 5, "it is asked")
    server.checks.clear()
    until(lambda: len(server.checks) >= 21, "it is asked")
    times = server.checks[:21]
    assert 0.08 * 20 < times[-1] - times[0] < 0.3 * 20
    server.delay_s = 0.5
    connections = server.connections
    until(lambda: server.connections >= connections + 2, "it is asked")
    late = server.checks[-2:]
    assert late[1] - late[0] > 0.45
