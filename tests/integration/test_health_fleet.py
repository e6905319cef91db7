"""Health shared by real replicas over a real memcached: the rate of checks, who confirms, who takes over."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import pytest

from fastroute.fleet.messages import Mail, Seal
from fastroute.fleet.presence import read_fleet
from fastroute.memcache.cluster import Memcached as StoreClient
from tests.support.admin import Admin, start_administered, until
from tests.support.checked import CheckedServers
from tests.support.fleet import Process, free_ports, unlink_zone
from tests.support.memcached import Memcached

REPLICAS, SERVERS = 4, 8
SECRET = "a secret for tests of at least 32 bytes"
INTERVAL_S = 0.25
CHECK = f'[pools.app.health]\ncheck = "http"\ninterval = {INTERVAL_S}\ntimeout = "2s"\nfast_interval = "100ms"\n'


def zone(i: int) -> str:
    return f"healthfleet{os.getpid()}-{i}"


class Fleet:
    def __init__(self, directory: pathlib.Path, store: Memcached, servers: CheckedServers) -> None:
        self.directory, self.store, self.servers = directory, store, servers
        self.replicas: list[Process] = []
        self.admins: list[Admin] = []

    def add(self) -> None:
        web, admin = free_ports(2)
        i = len(self.replicas)
        self.replicas.append(
            start_administered(
                self.directory,
                f"fr{i}",
                port=web,
                admin_port=admin,
                upstream_ports=self.servers.ports,
                zone=zone(i),
                memcached=[self.store.address],
                sticky_more=CHECK,
                secret=SECRET,
            )
        )
        self.admins.append(Admin(admin))

    def names(self) -> list[str]:
        """Who is there, as any replica would read it."""

        async def look() -> list[str]:
            async with StoreClient([self.store.address], timeout="2s") as client:
                found = await read_fleet(Mail(client, Seal([SECRET.encode()], "fr"), "onlooker"))
                return [one.name for one in found or []]

        return asyncio.run(look())

    def all_askers(self) -> list[set[str]]:
        """Of each server: who asked it last, as the replicas tell."""
        told = [
            {one["name"]: one["last_check"].get("by", "") for one in admin.get("/api/v1/pools/app")["servers"]}
            for admin in self.admins
        ]
        return [{by[server.name] for by in told} for server in self.servers.all]

    def askers(self, index: int) -> set[str]:
        return self.all_askers()[index]

    def settled(self) -> bool:
        """Do all replicas name the same asker of each server?"""
        return all(len(by) == 1 and "" not in by for by in self.all_askers())

    def states(self, index: int) -> set[str]:
        return {admin.server(self.servers[index].name)["state"] for admin in self.admins}

    def rate(self, seconds: float) -> float:
        """Checks per server and second over all servers."""
        for server in self.servers.all:
            server.checks.clear()
        began_s = time.monotonic()
        self.servers.run(asyncio.sleep(seconds))  # the measurement itself: checks arrive meanwhile
        passed_s = time.monotonic() - began_s
        return sum(len(server.checks) for server in self.servers.all) / SERVERS / passed_s


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Memcached() as store, CheckedServers(SERVERS) as servers:
        made = Fleet(tmp_path_factory.mktemp("healthfleet"), store, servers)
        try:
            made.add()
            yield made
        finally:
            for process in made.replicas:
                process.kill()
            for process in made.replicas:
                process.popen.wait(10)
            unlink_zone(*[zone(i) for i in range(REPLICAS)])


def test_four_replicas_ask_eight_servers_as_often_as_one(fleet: Fleet):
    until(fleet.settled, "one replica asks")
    alone = fleet.rate(3)
    while len(fleet.replicas) < REPLICAS:
        fleet.add()
    until(lambda: len(fleet.names()) == REPLICAS, "all say that they live")
    until(fleet.settled, "all agree on who asks whom")
    together = fleet.rate(3)
    print(f"checks per server and second: {alone:.2f} by one replica, {together:.2f} by {REPLICAS}")
    # A starved machine asks late and hands over late. Were they not shared out, it would be four times as often.
    assert 0.5 / INTERVAL_S < alone < 1.15 / INTERVAL_S
    assert 0.5 / INTERVAL_S < together < 1.5 / INTERVAL_S
    assert len(set.union(*fleet.all_askers())) > 1


def test_a_server_that_turns_bad_is_down_on_all_replicas_and_a_second_one_has_confirmed_it(fleet: Fleet):
    fleet.servers[5].status = 503
    until(lambda: fleet.states(5) == {"down"}, "down everywhere")
    fleet.servers[5].status = 200
    until(lambda: fleet.states(5) == {"ready"}, "ready everywhere")
    lines = [line for one in fleet.replicas for line in one.output().splitlines() if fleet.servers[5].name in line]
    assert sum("confirmed by" in line for line in lines) >= 1
    assert sum("is up again" in line for line in lines) == REPLICAS  # each replica says so once


def test_forged_messages_in_the_store_change_nothing_and_are_counted(fleet: Fleet):
    names = fleet.names()
    down = {"app": [[server.name, 2, 0, 0, 0, False, 0, "", "", "forged"] for server in fleet.servers.all]}

    async def forge(kind: str, name: str, body: object) -> None:
        async with StoreClient([fleet.store.address], timeout="2s") as client:
            liar = Mail(client, Seal([b"another secret of at least 32 bytes"], "fr"), "liar")
            await liar.publish(kind, name, body, 5)

    def refused() -> int:
        replicas = fleet.admins[0].get("/api/v1/fleet")["replicas"]
        return sum(one.get("refused", {}).get("forged", 0) for one in replicas)

    def counted() -> int:
        for name in names:
            asyncio.run(forge("health", name, down))
        return refused()

    until(counted, "it is counted")
    asyncio.run(forge("directory", "all", ["liar"]))
    until(lambda: fleet.names() == names, "the directory is whole again")
    until(fleet.settled, "all agree on who asks whom")
    for i in range(SERVERS):
        assert fleet.states(i) == {"ready"}


def test_the_servers_of_a_killed_replica_are_asked_by_others(fleet: Fleet):
    by = fleet.askers(2).pop()
    names = fleet.names()
    assert by in names
    index = next(i for i, one in enumerate(fleet.replicas) if _asks(one, by, fleet))
    fleet.replicas[index].kill(signal.SIGKILL)
    fleet.replicas[index].popen.wait(10)
    del fleet.admins[index], fleet.replicas[index]
    until(lambda: by not in fleet.askers(2) and fleet.settled(), "another one asks")
    fleet.servers[2].status = 503
    until(lambda: fleet.states(2) == {"down"}, "down everywhere")
    fleet.servers[2].status = 200
    until(lambda: fleet.states(2) == {"ready"}, "ready everywhere")


def _asks(replica: Process, name: str, fleet: Fleet) -> bool:
    """Is this the replica of that name? Its presence carries the pid of its supervisor."""

    async def look() -> int:
        async with StoreClient([fleet.store.address], timeout="2s") as client:
            found = await read_fleet(Mail(client, Seal([SECRET.encode()], "fr"), "onlooker"))
            return next(one.facts["supervisor"] for one in found or [] if one.name == name)

    return asyncio.run(look()) == replica.pid


def test_without_the_store_every_replica_asks_for_itself_and_all_goes_on(fleet: Fleet):
    fleet.store.kill()
    until(lambda: all(len(by) == len(fleet.admins) for by in fleet.all_askers()), "each asks for itself")
    fleet.servers[1].status = 503
    until(lambda: fleet.states(1) == {"down"}, "down everywhere")
    fleet.servers[1].status = 200
    until(lambda: fleet.states(1) == {"ready"}, "ready everywhere")
    fleet.store.start()
    until(fleet.settled, "shared again")


def test_a_replica_that_stops_is_gone_at_once(fleet: Fleet):
    before = fleet.names()
    assert fleet.replicas[-1].stop() == 0
    del fleet.admins[-1]
    assert len(fleet.names()) == len(before) - 1
