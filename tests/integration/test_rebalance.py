"""A server is added: idle users move to it within the budget, others stay; two replicas and one where it is off."""

from __future__ import annotations

import collections
import os
import pathlib
import time

from fastroute.admin.rebalance import MARK_S
from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.ages import have_left
from tests.support.fleet import free_ports, running, start_upstreams, unlink_zone
from tests.support.memcached import Memcached

ZONES = [f"even{n}-{os.getpid()}" for n in range(3)]
PER_SECOND = 4
TTL_S, IDLE_S = 600, 420
ON = f"rebalance = {{ per_second = {PER_SECOND}, idle = {IDLE_S} }}"
IDENTITY_SECRET = "another one of at least 32 bytes!!"  # start_replica's
IDLE = [f"idle-{n}" for n in range(24)]
ACTIVE = [f"active-{n}" for n in range(12)]
FIRST_MOVE_S = 60.0


class Replica:
    def __init__(self, directory: pathlib.Path, at: int, store: str, upstreams: list[int], pool_more: str, more: str):
        self.port, admin = free_ports(2)
        self.admin = Admin(admin)
        self.process = start_administered(
            directory,
            f"fr{at}",
            port=self.port,
            admin_port=admin,
            upstream_ports=upstreams,
            zone=ZONES[at],
            memcached=[store],
            store_more='near_ttl = "0.2s"\n',
            ttl=f"{TTL_S}s",
            pool_more=pool_more,
            more=more,
        )

    def visit(self, user: str) -> str:
        answer = CLIENT.get(f"http://127.0.0.1:{self.port}/", headers={"Cookie": f"sid={user}"})
        assert answer.status_code == 200
        return answer.headers["x-served-by"]

    def stored(self, user: str) -> str:
        return self.admin.get(f"/api/v1/affinity/app?key={user}")["store"]["server"]

    def moved(self) -> float:
        return self.admin.total("fastroute_rebalanced_total", pool="app")


def left_s(store: Memcached, key: str) -> int:
    return int(store.command(f"mg {key} t").removeprefix(b"HD t"))


def test_idle_users_move_to_a_server_that_was_added_within_the_budget_and_nobody_else(tmp_path: pathlib.Path) -> None:
    ports = free_ports(3)
    users = IDLE + ACTIVE
    with Memcached() as store, running(*start_upstreams(tmp_path, ports)):
        # The mark of a node that has had its records for longer than it takes to be idle.
        assert store.command(f"ms fr:f:rebalance:since 1 T{MARK_S - IDLE_S - 60}\r\n1") == b"HD\r\n"
        one, two, off = (
            Replica(tmp_path, at, store.address, ports[:2], more_of_pool, more)
            for at, (more_of_pool, more) in enumerate([(ON, ""), (ON, ""), ("", 'fleet = "off"')])
        )
        with running(one.process, two.process, off.process):
            where = {user: one.visit(user) for user in users}
            where_off = {user: off.visit(user) for user in users}
            for user in users:
                assert (one.visit(user), two.visit(user), two.visit(user)) == (where[user],) * 3
                assert off.visit(user) == where_off[user]
            assert collections.Counter(where.values()) == {f"up-{port}": 18 for port in ports[:2]}

            # Much later: nobody has come for longer than idle, and nothing is uneven. Then the active ones come.
            records: list[str] = []
            for zone, fleet in zip(reversed(ZONES), ("off", "fr", "fr"), strict=True):
                idle = {"secret": IDENTITY_SECRET, "fleet": fleet, "store": store}
                records = have_left(TTL_S - IDLE_S - 10, zone, "8MiB", **idle)
                assert len(records) == len(users)
            for at, user in enumerate(ACTIVE):  # the last four come to the second replica alone
                assert (one, two, two)[at % 3].visit(user) == where[user]
            until(lambda: sum(left_s(store, key) > TTL_S - 60 for key in records) == len(ACTIVE), "they live on")
            for replica in (one, two, off):
                server = {"name": f"up-{ports[2]}", "address": f"127.0.0.1:{ports[2]}"}
                replica.admin.post("/api/v1/pools/app/servers", server)

            began, samples = time.monotonic(), [(0.0, 0.0)]
            while samples[-1][1] < 12 and time.monotonic() - began < FIRST_MOVE_S:
                before_s = time.monotonic()
                total = one.moved() + two.moved()
                samples.append((before_s, total))
                for at, user in enumerate(ACTIVE):
                    assert (one, two, two)[at % 3].visit(user) == where[user], f"{user} is active and was moved"
                    assert off.visit(user) == where_off[user]
            now = {user: one.stored(user) for user in users}
            stayed = {user: off.stored(user) for user in users}
            returned = {user: (two.visit(user), one.visit(user)) for user in IDLE}

            assert samples[-1][1] == 12, samples
            assert min(one.moved(), two.moved()) == 0, "both moved at once"
            assert collections.Counter(now.values()) == {f"up-{port}": 12 for port in ports}, "not even"
            assert {user: now[user] for user in ACTIVE} == {user: where[user] for user in ACTIVE}
            assert all(now[user] in (where[user], f"up-{ports[2]}") for user in IDLE)
            assert returned == {user: (now[user],) * 2 for user in IDLE}, "both replicas know of the moves"
            for start_s, start in samples:
                for end_s, end in samples:
                    within_s = end_s - start_s
                    assert within_s < 0 or start == 0 or end - start <= PER_SECOND * (within_s + 2), samples
            still_none_s = max(at_s for at_s, total in samples if total == 0)
            assert samples[-1][0] - still_none_s > 12 / PER_SECOND - 2, "faster than the budget"

            assert stayed == where_off
            assert "fastroute_rebalanced_total" not in off.admin.metrics()

            def told() -> bool:  # with the next count of the bindings
                events = [event for replica in (one, two) for event in replica.admin.get("/api/v1/history")["events"]]
                return any(event["kind"] == "rebalance" for event in events)

            until(told, "it stands in a history")
    unlink_zone(*ZONES)
