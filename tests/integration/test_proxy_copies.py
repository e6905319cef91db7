"""Real replicas with copies on two stores, each killed in turn; and users who stay when their server is down."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.support.fleet import User, free_ports, running, start_replica, start_upstreams, unlink_zone
from tests.support.memcached import Memcached


@pytest.fixture
def zones():
    """Names of three zones of this test alone."""
    names = [f"t-{uuid.uuid4().hex[:12]}" for _ in range(3)]
    yield names
    unlink_zone(*names)


async def served(users: list[User], port: int) -> list[str | None]:
    return list(await asyncio.gather(*(user.get(port) for user in users)))


async def test_either_of_two_stores_is_lost_and_comes_back_empty_and_no_user_moves(tmp_path, zones):
    *ports, a, b, c = free_ports(6)
    with Memcached() as first, Memcached() as second, running(*start_upstreams(tmp_path, ports)):
        nodes = [first.address, second.address]

        def replica(port: int, zone: str):
            return start_replica(
                tmp_path,
                zone,
                port=port,
                upstream_ports=ports,
                zone=zone,
                memcached=nodes,
                store_more='copies = 2\nnear_ttl = "100ms"\n',
            )

        with running(replica(a, zones[0]), replica(b, zones[1])):
            users = [User([a, b, c], f"sid=user-{n}") for n in range(60)]
            both, one = users, users[:30]  # half of them have been seen by one replica alone
            before = await served(both, a)
            assert await served(one, b) == before[:30]
            first.kill()
            assert await served(both, b) == before
            first.start()
            async with asyncio.timeout(40):  # until each key is on the node that is back
                while sum(key.startswith("fr%3Aa%3A") for key in first.all_keys()) < len(users):
                    assert await served(both, a) == before
                    assert await served(both, b) == before
            second.kill()
            with running(replica(c, zones[2])):  # a replica that has seen nobody
                assert await served(both, c) == before
                assert await served(both, a) == before
            assert [user.failures for user in users] == [[]] * len(users)
            for user in users:
                await user.close()


async def test_users_of_a_server_that_is_down_get_503_and_stay_its_users(tmp_path, zones):
    *ports, a = free_ports(3)
    upstreams = start_upstreams(tmp_path, ports)
    with running(*upstreams):
        more = 'on_failure = "fail"\nmax_lifetime = "8h"\n'
        with running(start_replica(tmp_path, "r", port=a, upstream_ports=ports, zone=zones[0], sticky_more=more)):
            users = [User([a], f"sid=user-{n}") for n in range(20)]
            before = await served(users, a)
            lost = {name for name in before if name and str(ports[0]) in name}
            upstreams[0].kill()
            upstreams[0].popen.wait()
            for _ in range(2):
                assert await served(users, a) == [None if name in lost else name for name in before]
            failed = [user.failures for user, name in zip(users, before, strict=True) if name in lost]
            assert failed == [["503", "503"]] * 10
            with running(*start_upstreams(tmp_path, ports[:1])):
                async with asyncio.timeout(40):
                    while await served(users, a) != before:
                        await asyncio.sleep(0.01)
            for user in users:
                await user.close()
