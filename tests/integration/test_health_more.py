"""Restarts, hooks, contents, shares of failures and the fleet's load, with real replicas and real servers."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.checked import CheckedServers
from tests.support.fleet import Process, free_ports, running, unlink_zone
from tests.support.memcached import Memcached

CHECK = '[pools.app.health]\ncheck = "http"\ninterval = "100ms"\ntimeout = "2s"\n'
SECRET = "a secret for tests of at least 32 bytes"


class Site:
    def __init__(self, servers: CheckedServers, replicas: list[Process], webs: list[int], admins: list[int]) -> None:
        self.servers, self.replicas, self.webs = servers, replicas, webs
        self.admins = [Admin(port) for port in admins]

    def told(self, index: int, replica: int = 0) -> dict:
        return self.admins[replica].server(self.servers[index].name)

    def until(self, index: int, state: str) -> None:
        def all_say() -> bool:
            told = [admin.server(self.servers[index].name) for admin in self.admins]
            return all(one["state"] == state and len(one["states"]) == 1 for one in told)

        until(all_say, f"server {index} {state}: {self.replicas[0].output()[-2000:]}")

    def visit(self, user: str, replica: int = 0, path: str = "/") -> str:
        answer = CLIENT.get(f"http://127.0.0.1:{self.webs[replica]}{path}", headers={"Cookie": f"sid={user}"})
        return answer.headers.get("x-served-by", str(answer.status_code))

    def new_users(self, count: int, replica: int = 0) -> collections.Counter[str]:
        made = [f"{os.urandom(8).hex()}" for _ in range(count)]
        return collections.Counter(self.visit(user, replica) for user in made)


@contextlib.contextmanager
def serving(
    directory: pathlib.Path, more: str, *, servers: int = 3, replicas: int = 1, store: Memcached | None = None, **keys
) -> Iterator[Site]:
    ports = free_ports(2 * replicas)
    zones = [f"healthmore{os.getpid()}-{i}" for i in range(replicas)]
    with CheckedServers(servers) as made, contextlib.ExitStack() as stack:
        stack.callback(unlink_zone, *zones)
        started = []
        for i in range(replicas):
            one = start_administered(
                directory,
                f"fr{i}",
                port=ports[2 * i],
                admin_port=ports[2 * i + 1],
                upstream_ports=made.ports,
                zone=zones[i],
                memcached=[store.address] if store else None,
                sticky_more=more,
                secret=SECRET,
                **keys,
            )
            stack.enter_context(running(one))
            started.append(one)
        site = Site(made, started, ports[::2], ports[1::2])
        if "[pools.app.health]" in more:
            for i in range(servers):
                for replica in range(replicas):
                    until(lambda i=i, replica=replica: site.told(i, replica)["last_check"].get("ok"), "it is checked")
        yield site


def test_a_restart_between_two_checks_begins_a_ramp_and_bound_users_stay(tmp_path: pathlib.Path):
    more = CHECK + 'boot_header = "X-Boot"\n[pools.app.slow_start]\nwindow = "1m"\nmin_weight = 0.01\n'
    with serving(tmp_path, more, workers=2) as site:
        for server in site.servers.all:
            server.fields = {"X-Boot": "first"}
        checked = len(site.servers[0].checks)
        until(lambda: len(site.servers[0].checks) > checked + 2, "the boot id is seen")
        user = next(user for user in map(str, range(100)) if site.visit(user) == site.servers[0].name)
        site.servers[0].fields = {"X-Boot": "second"}
        until(lambda: site.told(0)["weight_effective"] < 0.5, "the ramp")
        assert site.told(0)["state"] == "ready"
        assert site.visit(user) == site.servers[0].name
        name = site.servers[0].name  # round robin would give it 6 or 7 of 20; each worker hears by itself
        until(lambda: site.new_users(20)[name] <= 2, "the ramp in both workers")
        assert sum("has restarted" in line for line in site.replicas[0].output().splitlines()) == 1


def test_bindings_to_a_restarted_server_move_where_the_file_says_so(tmp_path: pathlib.Path):
    with serving(tmp_path, CHECK + 'boot_header = "X-Boot"\non_restart = "move"\n') as site:
        for server in site.servers.all:
            server.fields = {"X-Boot": "first"}
        checked = len(site.servers[0].checks)
        until(lambda: len(site.servers[0].checks) > checked + 2, "the boot id is seen")
        users = {user: site.visit(user) for user in map(str, range(12))}
        bound = [user for user, server in users.items() if server == site.servers[0].name]
        assert bound
        site.servers[0].fields = {"X-Boot": "second"}
        until(lambda: f"{len(bound)} bindings moved" in site.replicas[0].output(), "its bindings have moved")
        moved = {user: site.visit(user) for user in users}
        assert all(moved[user] != site.servers[0].name for user in bound)
        assert all(moved[user] == server for user, server in users.items() if user not in bound)


def test_a_restarted_server_gets_no_more_than_its_ramp_through_four_replicas(tmp_path: pathlib.Path):
    window_s, servers, replicas = 4.0, 4, 4
    more = CHECK + f'boot_header = "X-Boot"\n[pools.app.slow_start]\nwindow = {window_s}\nmin_weight = 0.01\n'
    with (
        Memcached() as store,
        serving(tmp_path, more, servers=servers, replicas=replicas, store=store, policy="least-connections") as site,
    ):
        for server in site.servers.all:
            server.fields = {"X-Boot": "first"}
        checked = len(site.servers[0].checks)
        until(lambda: len(site.servers[0].checks) > checked + 2, "the boot id is seen")
        began_s = time.monotonic()
        site.servers[0].fields = {"X-Boot": "second"}
        until(lambda: all(site.told(0, i)["weight_effective"] < 0.9 for i in range(replicas)), "all replicas know")
        asked, got, fair = 0, 0, 0.0
        while (passed_s := time.monotonic() - began_s) < window_s:
            ramp = max(
                0.01, min(1.0, passed_s / window_s)
            )  # of the latest start that is possible: the others' is below
            got += site.visit(os.urandom(8).hex(), asked % replicas) == site.servers[0].name
            asked += 1
            fair += ramp / (servers - 1 + ramp)
        print(f"{got} of {asked} new users; its ramp allows {fair:.1f}")
        assert asked > 20  # hundreds, on a machine that is not starved
        assert got <= fair + 2 * replicas  # a server that nobody asked for saves up to two picks per process


def test_what_checks_said_is_over_when_a_reload_takes_them_out_of_the_file(tmp_path: pathlib.Path):
    with serving(tmp_path, CHECK) as site:
        site.servers[0].status = 503
        site.until(0, "down")
        file = tmp_path / "fr0.toml"
        text = file.read_text()
        file.write_text(text.replace(CHECK, ""))
        site.admins[0].post("/api/v1/reload")
        site.until(0, "ready")
        file.write_text(text)
        site.admins[0].post("/api/v1/reload")
        site.until(0, "down")


def test_a_server_is_not_ready_before_its_hook_has_succeeded(tmp_path: pathlib.Path):
    flag = tmp_path / "replicated"
    hook = f"[ -e {flag} ] && echo $FASTROUTE_SERVER $FASTROUTE_PORT >> {tmp_path}/hooked"
    more = CHECK + f'rise = 1\nfall = 1\n[pools.app.on_join]\ncommand = ["/bin/sh", "-c", {hook!r}]\ntimeout = "10s"\n'
    with serving(tmp_path, more) as site:
        for i in range(3):
            site.until(i, "maintenance")
        assert site.visit("somebody") == "503"
        assert all(not server.requests for server in site.servers.all)
        flag.touch()
        for i in range(3):
            site.until(i, "ready")
        lines = (tmp_path / "hooked").read_text().splitlines()
        assert sorted(lines) == sorted(f"{server.name} {server.port}" for server in site.servers.all)
        flag.unlink()
        site.servers[1].close()
        site.until(1, "down")
        site.servers[1].open()
        site.until(1, "maintenance")
        assert "its hook" in site.replicas[0].output() or "the hook" in site.replicas[0].output()
        flag.touch()
        site.until(1, "ready")


@pytest.mark.parametrize(("on_drift", "state"), [("keep-bound-only", "draining"), ("eject", "ejected")])
def test_a_server_whose_pages_differ_is_treated_as_configured(tmp_path: pathlib.Path, on_drift: str, state: str):
    more = CHECK + f'[pools.app.content]\npaths = ["/version"]\ninterval = "100ms"\non_drift = "{on_drift}"\n'
    with serving(tmp_path, more) as site:
        for server in site.servers.all:
            server.pages["/version"] = b"build 1"
        until(lambda: all(len(server.requests) > 3 for server in site.servers.all), "pages are asked for")
        for i in range(3):
            site.until(i, "ready")
        user = next(user for user in map(str, range(100)) if site.visit(user) == site.servers[2].name)
        site.servers[2].pages["/version"] = b"build 2"
        site.until(2, state)
        if on_drift == "keep-bound-only":
            assert site.visit(user) == site.servers[2].name
        assert site.servers[2].name not in site.new_users(9)
        site.servers[1].pages["/version"] = b"build 2"  # more than half have it: the last one is the odd one now
        site.until(2, "ready")
        site.until(0, state)
        site.servers[0].pages["/version"] = b"build 2"
        site.until(0, "ready")


def test_in_a_rolling_deploy_through_two_replicas_no_user_sees_old_new_old(tmp_path: pathlib.Path):
    content = '[pools.app.content]\nheader = "X-Build"\non_drift = "keep-bound-only"\n'
    builds: dict[str, str] = {}

    def ask(site: Site, user: str, replica: int) -> str:
        """The build that serves a user."""
        answer = CLIENT.get(f"http://127.0.0.1:{site.webs[replica]}/", headers={"Cookie": f"sid={user}"})
        assert answer.status_code == 200, answer.text
        seen = builds.get(user, "")
        if not seen.endswith(answer.headers["x-build"]):
            builds[user] = seen + answer.headers["x-build"]
        return answer.headers["x-build"]

    with Memcached() as store, serving(tmp_path, CHECK + content, servers=4, replicas=2, store=store) as site:
        for server in site.servers.all:
            server.fields = {"X-Build": "a"}
        users, fresh = [f"user-{n}" for n in range(12)], 0
        told: list[collections.Counter[str]] = []

        def states(wanted: dict[str, int]) -> bool:
            """Do all replicas say so? Users come meanwhile."""
            nonlocal fresh
            for n, user in enumerate(users):
                ask(site, user, (n + fresh) % 2)
            fresh += 1
            ask(site, f"fresh-{fresh}", fresh % 2)
            pools = [admin.get("/api/v1/pools/app")["servers"] for admin in site.admins]
            told[:] = [collections.Counter(one["state"] for one in servers) for servers in pools]
            return all(one == wanted for one in told)

        def settled(wanted: dict[str, int], why: str) -> None:
            """Not `until`: each look brings a dozen users, which takes its time on a busy machine."""
            end_s = time.monotonic() + 60
            while not states(+collections.Counter(wanted)):
                assert time.monotonic() < end_s, (
                    f"never: {why}: {told}, {[one.output()[-3000:] for one in site.replicas]}"
                )

        settled({"ready": 4}, "all have the same build")
        for number, server in enumerate(site.servers.all, 1):
            server.close()
            away = {"down": 1, "draining": number - 1, "ready": 4 - number} if number < 4 else {"down": 1, "ready": 3}
            settled(away, f"server {number} is away")
            server.fields = {"X-Build": "b"}
            server.open()
            odd = {1: 1, 2: 2, 3: 1, 4: 0}[number]  # the new ones, until they are more than half
            back = {"draining": odd, "ready": 4 - odd}
            settled(back, f"server {number} is back")
            for replica in (0, 1):
                assert {ask(site, f"late-{number}-{replica}-{n}", replica) for n in range(8)} == {
                    "a" if number < 3 else "b"
                }
        assert {ask(site, user, n % 2) for n, user in enumerate(users)} == {"b"}
        assert set(builds.values()) <= {"a", "ab", "b"}, builds
        assert {builds[user] for user in users} == {"ab"}


def test_builds_in_a_header_are_compared_and_a_difference_is_logged(tmp_path: pathlib.Path):
    more = CHECK + '[pools.app.content]\nheader = "X-Build"\n'
    with serving(tmp_path, more) as site:
        for i, server in enumerate(site.servers.all):
            server.fields = {"X-Build": "b2" if i == 1 else "b1"}
        until(lambda: "the contents of server" in site.replicas[0].output(), "it is logged")
        assert f"{site.servers[1].name} (b2) differ from the pool's (b1): warn" in site.replicas[0].output()
        assert site.told(1)["state"] == "ready"


def test_a_server_whose_requests_fail_more_often_than_not_is_ejected_and_comes_back(tmp_path: pathlib.Path):
    more = (
        "[pools.app.outlier]\nconsecutive = 1000000\nfailure_ratio = 0.3\nmin_requests = 10\n"
        'interval = "200ms"\neject = "1s"\npanic = 0\n'
    )
    with serving(tmp_path, more, workers=2) as site:
        site.servers[1].page_status = 500

        def ejected() -> bool:
            site.new_users(30)
            return site.told(1)["states"] == {"ejected": 2}

        until(ejected, "ejected in both workers")
        assert set(site.new_users(9)) == {site.servers[0].name, site.servers[2].name}
        site.servers[1].page_status = 200
        site.until(1, "ready")
        assert "requests failed" in site.replicas[0].output()


class Held:
    """Requests that stay open: their servers' loads."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def begin(self, port: int) -> None:
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sockets.append(one)
        one.sendall(f"GET /hold HTTP/1.1\r\nHost: t\r\nCookie: sid={os.urandom(8).hex()}\r\n\r\n".encode())

    def end(self) -> None:
        for one in self.sockets:  # reset: an end of what the client sends alone would not end its request
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        self.sockets.clear()


def test_two_replicas_do_not_both_pick_the_same_idle_server(tmp_path: pathlib.Path):
    with Memcached() as store:
        keys = {"policy": "least-connections", "pool_more": "fleet_load = true\n"}
        with serving(tmp_path, CHECK, servers=4, replicas=2, store=store, **keys) as site:
            held = Held()
            try:
                for turn in range(4):
                    replica = turn % 2
                    held.begin(site.webs[replica])
                    until(lambda turn=turn: sum(len(one.held) for one in site.servers.all) == turn + 1, "it is held")

                    def seen(turn: int = turn) -> bool:
                        """Have both replicas heard of all of them? Their explanations name the loads."""
                        return all(_loads(admin) == turn + 1 for admin in site.admins)

                    until(seen, "both replicas know")
                assert sorted(len(one.held) for one in site.servers.all) == [1, 1, 1, 1]
            finally:
                held.end()


def test_two_replicas_that_pick_at_the_same_moment_pick_different_idle_servers(tmp_path: pathlib.Path):
    rounds, met = 6, 0
    with Memcached() as store:
        keys = {"policy": "least-connections", "pool_more": "fleet_load = true\n"}
        with serving(tmp_path, CHECK, servers=6, replicas=2, store=store, **keys) as site:
            held = Held()

            def seen(total: int) -> bool:
                return all(_loads(admin) == total for admin in site.admins)

            try:
                for turn in range(rounds + 1):
                    for web in site.webs:
                        held.begin(web)
                    until(lambda: sum(len(one.held) for one in site.servers.all) == 2, "both are held")
                    met += turn > 0 and any(
                        len(one.held) == 2 for one in site.servers.all
                    )  # they know each other by then
                    until(lambda: seen(2), "both replicas know")
                    held.end()
                    for one in site.servers.all:
                        one.held.clear()
                    until(lambda: seen(0), "all are idle again")
            finally:
                held.end()
    print(f"{met} of {rounds} pairs met")
    assert met <= rounds // 2  # in step they would meet each time; for a moment every 5 s they may


def _loads(admin: Admin) -> int:
    """Requests in flight over the fleet, as a replica sees it."""
    return sum(one["in_flight"] for one in admin.get("/api/v1/explain/app?key=nobody")["candidates"])
