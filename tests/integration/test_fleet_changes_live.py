"""Changes of a whole fleet: three real replicas with zones of their own and one real memcached."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fastroute.fleet.changes import KIND, NAME
from fastroute.fleet.messages import Message, Seal, store_key
from tests.support.admin import CLIENT, TOKEN, Admin, start_administered, until
from tests.support.fleet import Process, free_ports, running, start_replica, start_upstreams, unlink_zone
from tests.support.memcached import Memcached
from tests.support.shared import shared

ZONES = [f"fleetlive{os.getpid()}-{n}" for n in range(4)]
PROMISED_S = 1.0


class Fleet:
    """Two replicas with an admin listener, one without, and ports for a fourth."""

    def __init__(self, directory: pathlib.Path, store: Memcached, ports: list[int], web: list[int], admin: list[int]):
        self.directory, self.store, self.web, self.ports = directory, store, web, ports
        self.admin_ports, self.started = admin, 0
        self.admins = [Admin(port) for port in admin[:2]]
        self.names = [f"up-{port}" for port in ports]

    def keys(self, number: int) -> dict:
        keys = {"port": self.web[number], "upstream_ports": self.ports, "zone": ZONES[number]}
        return {**keys, "memcached": [self.store.address]}

    def start(self, number: int) -> Process:
        if number == 2:
            return start_replica(self.directory, "fr2", **self.keys(2))
        self.started += 1  # each with a log of its own
        name = f"fr{number}" if number < 3 else f"late{self.started}"
        return start_administered(self.directory, name, admin_port=self.admin_ports[number], **self.keys(number))

    def visit(self, number: int, user: str) -> str:
        answer = CLIENT.get(f"http://127.0.0.1:{self.web[number]}/", headers={"Cookie": f"sid={user}"})
        return answer.headers["x-served-by"]

    def agree(self, sessions: int) -> dict:
        replicas = ",".join(f"127.0.0.1:{port}" for port in self.web[:3])
        command = [sys.executable, str(shared("tools", "agree.py")), "--replicas", replicas]
        done = subprocess.run([*command, "--sessions", str(sessions)], capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)

    def order(self, number: int, server: str, **order: object) -> None:
        self.admins[number].order(server, scope="fleet", **order)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    ports = free_ports(3 + 4 + 4)
    with Memcached() as store, running(*start_upstreams(directory, ports[:3])):
        made = Fleet(directory, store, ports[:3], ports[3:7], ports[7:])
        with running(made.start(0), made.start(1), made.start(2)):
            yield made
    unlink_zone(*ZONES)


@pytest.fixture(autouse=True)
def nothing_stays_ordered(fleet: Fleet) -> Iterator[None]:
    yield
    for name in fleet.names:
        fleet.order(0, name, state="ready", weight=None)


def test_a_drain_through_one_replica_stops_new_bindings_on_all_and_moves_nobody(fleet: Fleet) -> None:
    users = [f"bound-{n}" for n in range(24)]
    before = {user: fleet.visit(n % 3, user) for n, user in enumerate(users)}
    out = fleet.names[0]
    assert out in before.values()
    began = time.monotonic()
    fleet.order(0, out, state="draining", by="anna")
    meanwhile = 0
    while time.monotonic() < began + PROMISED_S:  # users go on coming until it must hold everywhere
        fleet.visit(meanwhile % 3, f"meanwhile-{meanwhile}")
        meanwhile += 1
    fresh = {fleet.visit(n % 3, f"fresh-{n}") for n in range(36)}
    assert out not in fresh
    for number in range(3):
        assert {user: fleet.visit(number, user) for user in users} == before
    tally = fleet.agree(64)
    assert [tally[key] for key in ("sessions", "split", "split_later", "moved", "failed")] == [64, 0, 0, 0, 0]
    told = fleet.admins[1].get("/api/v1/fleet")["changes"]
    assert [(one["server"], one["state"], one["by"]) for one in told] == [(out, "draining", "anna")]
    assert abs(told[0]["at"] - time.time()) < 60


def test_a_replica_that_starts_later_follows_before_it_accepts(fleet: Fleet) -> None:
    out = fleet.names[1]
    fleet.order(1, out, state="draining", weight=7)
    with running(fleet.start(3)):
        assert fleet.visit(3, "late") != out
        late = Admin(fleet.admin_ports[3])
        server = late.server(out)
        assert (server["state"], server["weight"]) == ("draining", 7)


def test_what_was_ordered_is_back_after_the_store_restarted(fleet: Fleet) -> None:
    out = fleet.names[2]
    fleet.order(0, out, state="draining")
    fleet.store.kill()
    fleet.store.start()
    seal = Seal([b"a secret for tests of at least 32 bytes"], "fr")

    def stored() -> object:
        answer = fleet.admins[0].get("/api/v1/fleet")
        return (answer["store"] and seal.open(KIND, NAME, fleet_raw(fleet))) or None

    until(lambda: isinstance(stored(), Message), "a replica writes it back")
    with running(fleet.start(3)):
        assert Admin(fleet.admin_ports[3]).server(out)["state"] == "draining"
    until(lambda: fleet.admins[1].server(out)["state"] == "draining", "it is followed")
    assert sum(one.get("/api/v1/fleet")["restored"] for one in fleet.admins) <= 2


def fleet_raw(fleet: Fleet) -> bytes:
    raw = fleet.store.command(f"get {store_key('fr', KIND, NAME).decode()}", end=b"END\r\n")
    head, _, rest = raw.partition(b"\r\n")
    return rest[: int(head.split()[3])] if head.startswith(b"VALUE") else b""


def put_raw(fleet: Fleet, data: bytes) -> None:
    host, _, port = fleet.store.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=40) as line:
        line.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (store_key("fr", KIND, NAME), len(data), data))
        assert line.recv(100) == b"STORED\r\n"


def test_a_forged_message_changes_nothing_and_is_counted(fleet: Fleet) -> None:
    fleet.order(0, fleet.names[0], state="draining")
    forged = Seal([b"somebody else's secret of 32 bytes!"], "fr").seal(
        Message(KIND, NAME, "x", 1 << 62, [["order", "app", fleet.names[1], {"state": "maintenance"}, 1 << 60, "x"]])
    )

    def counted() -> bool:
        put_raw(fleet, forged)  # whoever sees it first writes over it: until one that can be asked does
        return any(one.get("/api/v1/fleet")["refused"].get("forged", 0) for one in fleet.admins)

    until(counted, "the forgery is counted")
    assert sum(one.total("fastroute_fleet_orders_refused_total", cause="forged") for one in fleet.admins) >= 1
    assert fleet.admins[0].total("fastroute_fleet_orders") >= 1
    seal = Seal([b"a secret for tests of at least 32 bytes"], "fr")
    until(lambda: isinstance(seal.open(KIND, NAME, fleet_raw(fleet)), Message), "the fleet's own stands again")
    for admin in fleet.admins:
        until(lambda a=admin: a.server(fleet.names[0])["state"] == "draining", "the fleet's own is followed")
        assert admin.server(fleet.names[1])["state"] == "ready"


def test_a_server_joins_and_leaves_on_all_replicas_by_the_command_line(fleet: Fleet) -> None:
    (port,) = free_ports(1)
    name = f"up-{port}"

    def ctl(*words: str, everywhere: bool = True) -> str:
        command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{fleet.admin_ports[0]}"]
        command += ["--token-file", str(fleet.directory / "fr0.token"), *(["--fleet"] if everywhere else []), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        assert TOKEN not in done.stdout
        return done.stdout

    with running(*start_upstreams(fleet.directory, [port])):
        ctl("servers", "add", "app", f"127.0.0.1:{port}", "--name", name)
        for number in range(3):
            until(lambda n=number: any(fleet.visit(n, f"new-{time.monotonic()}") == name for _ in range(8)), "it joins")
        assert f"added at 127.0.0.1:{port}" in ctl("fleet", everywhere=False)
        ctl("drain", name)
        assert "draining" in ctl("fleet", everywhere=False)
        ctl("servers", "remove", name)
        for admin in fleet.admins:
            until(lambda a=admin: name not in str(a.get("/api/v1/pools/app")["servers"]), "it leaves")
    assert "removed" in ctl("fleet", everywhere=False)


def test_a_fleet_wide_release_moves_the_users_of_every_machine(fleet: Fleet) -> None:
    users = [f"release-{n}" for n in range(18)]
    before = {user: fleet.visit(n % 3, user) for n, user in enumerate(users)}
    out = fleet.names[0]
    fleet.order(0, out, state="draining")
    fleet.admins[1].post("/api/v1/affinity/app/release", {"server": out, "scope": "fleet"})

    def gone() -> bool:
        return all(fleet.visit(0, user) != out for user, served in before.items() if served == out)

    until(gone, "all of them moved")
    assert all(fleet.visit(1, user) == served for user, served in before.items() if served != out)
