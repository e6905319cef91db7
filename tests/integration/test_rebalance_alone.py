"""Evening out without a store: two replicas share one zone, and one of them moves; whose turn it is with one."""

from __future__ import annotations

import collections
import os
import pathlib
import time
from types import SimpleNamespace

from fastroute import Memcached as Client
from fastroute import Zone
from fastroute.admin.rebalance import MARK_S, Rebalancer
from fastroute.config.load import loads
from fastroute.fleet.messages import Mail, Seal
from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.ages import have_left
from tests.support.fleet import free_ports, running, start_upstreams, unlink_zone
from tests.support.memcached import Memcached

ZONE = f"evenalone-{os.getpid()}"
SECRET = "a secret for tests of at least 32 bytes"
CONFIG = f"""
secret = "{SECRET}"
identity_secret = "another one of at least 32 bytes!!"
store.memcached = ["127.0.0.1:1"]
[listeners.web]
bind = "127.0.0.1:8080"
pool = "app"
[pools.app]
servers = [{{ address = "10.0.0.1:80" }}]
sticky = {{ on = "cookie:sid", ttl = "200s" }}
rebalance = {{ per_second = 5, idle = "150s" }}
"""


def test_without_a_store_one_replica_of_the_zone_moves_what_nobody_used(tmp_path: pathlib.Path) -> None:
    *ports, web_a, web_b, admin_a, admin_b = free_ports(7)
    with running(*start_upstreams(tmp_path, ports)):
        replicas = [
            start_administered(
                tmp_path,
                f"fr{at}",
                port=web,
                admin_port=admin,
                upstream_ports=ports[:2],
                zone=ZONE,
                ttl="600s",
                pool_more='rebalance = { per_second = 50, idle = "420s" }',
            )
            for at, (web, admin) in enumerate([(web_a, admin_a), (web_b, admin_b)])
        ]
        with running(*replicas):

            def visit(web: int, user: str) -> str:
                answer = CLIENT.get(f"http://127.0.0.1:{web}/", headers={"Cookie": f"sid={user}"})
                return answer.headers["x-served-by"]

            users = [f"user-{n}" for n in range(18)]
            where = {user: visit(web_a, user) for user in users}
            assert {user: visit(web_b, user) for user in users} == where
            # Much later: nobody has come for longer than idle, and nothing is uneven. Then the active ones come.
            assert len(have_left(170, ZONE, "8MiB", secret="another one of at least 32 bytes!!")) == len(users)
            assert [visit(web_a, user) for user in users[:6]] == [where[user] for user in users[:6]]
            admins = [Admin(admin_a), Admin(admin_b)]
            for admin in admins:
                admin.post("/api/v1/pools/app/servers", {"name": "new", "address": f"127.0.0.1:{ports[2]}"})
            end = time.monotonic() + 30
            moved = [0.0, 0.0]
            while sum(moved) < 6 and time.monotonic() < end:
                assert [visit(web_a, user) for user in users[:6]] == [where[user] for user in users[:6]]
                moved = [admin.total("fastroute_rebalanced_total", pool="app") for admin in admins]
            assert sorted(moved) == [0, 6]
            until(lambda: set(admins[0].get("/api/v1/affinity/app")["servers"].values()) == {6}, "six bindings each")
            told = admins[moved.index(6)].get("/api/v1/pools/app")["rebalance"]
            assert (told["per_second"], told["idle_s"], told["moved"], told["left"]) == (50, 420, 6, 0)
            after = collections.Counter(visit(web_b, user) for user in users)
            assert after[f"up-{ports[2]}"] == 6
    unlink_zone(ZONE)


async def test_one_zone_at_a_time_and_no_node_that_started_empty_is_believed() -> None:
    names = [f"{ZONE}-{n}" for n in range(2)]
    zones = [Zone(name, "4MiB") for name in names]
    file = loads(CONFIG).config
    try:
        with Memcached() as store:
            async with Client([store.address], watch=False, timeout=5.0) as client:
                first, second = (
                    Rebalancer(
                        SimpleNamespace(file=file),  # type: ignore[arg-type]
                        SimpleNamespace(zone=zone, store=client),  # type: ignore[arg-type]
                        Mail(client, Seal([SECRET.encode()], "fr"), f"replica-{n}"),
                        lambda pool, text: None,
                    )
                    for n, zone in enumerate(zones)
                )
                ours, theirs = first._pools["app"], second._pools["app"]
                assert await first._take_turn("app", ours, 200)
                assert not await second._take_turn("app", theirs, 200)
                assert await first._take_turn("app", ours, 200)
                left_s = (await client.get(b"fr:f:rebalance:app")).ttl_s
                assert 50 < left_s <= 30 + (200 - 150) + 5, "until nobody remembers what was moved"
                await client.delete(b"fr:f:rebalance:app")
                assert await second._take_turn("app", theirs, 200)
                assert not await first._take_turn("app", ours, 200)

                assert not await first._nodes_are_old(ours), "it has no mark yet"
                assert not await second._nodes_are_old(theirs), "its mark is younger than idle"
                await client.set(b"fr:f:rebalance:since", b"1", MARK_S - 160)
                assert await second._nodes_are_old(theirs)
                store.command("flush_all")
                assert not await first._nodes_are_old(ours)
                store.kill()
                assert not await first._nodes_are_old(ours)
                assert not await first._take_turn("app", ours, 200)

                assert first._held("app", ours)
                again = Rebalancer(
                    SimpleNamespace(file=file),  # type: ignore[arg-type]
                    SimpleNamespace(zone=zones[0], store=client),  # type: ignore[arg-type]
                    None,
                    lambda pool, text: None,
                )
                assert not again._held("app", again._pools["app"]), "another process of the zone has it"
                first.close()
                assert again._held("app", again._pools["app"])
                again.close()
    finally:
        for zone, name in zip(zones, names, strict=True):
            zone.close()
            Zone.unlink(name)
