"""The main job on real traffic: replicas that agree, through the store and without it, while servers and store die."""

from __future__ import annotations

import asyncio
import collections
import json
import subprocess
import sys
import uuid

import pytest

from tests.support.fleet import User, free_ports, running, start_replica, start_upstreams, unlink_zone
from tests.support.memcached import Memcached
from tests.support.shared import shared


@pytest.fixture
def zones():
    """Names of two zones of this test alone."""
    names = [f"t-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    yield names
    unlink_zone(*names)


def agree(ports: list[int], sessions: int) -> dict:
    done = subprocess.run(
        [
            sys.executable,
            str(shared("tools", "agree.py")),
            "--replicas",
            ",".join(f"127.0.0.1:{port}" for port in ports),
            "--sessions",
            str(sessions),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


CLEAN = {"split": 0, "split_later": 0, "moved": 0, "failed": 0}


@pytest.mark.parametrize("workers", [1, 2])
def test_two_replicas_on_one_store_with_a_zone_each_split_no_session(tmp_path, zones, workers):
    *ports, a, b = free_ports(5)
    with Memcached() as store, running(*(upstreams := start_upstreams(tmp_path, ports))):
        assert upstreams
        replicas = [
            start_replica(
                tmp_path,
                name,
                port=port,
                upstream_ports=ports,
                zone=zone,
                memcached=[store.address],
                workers=workers,
            )
            for name, port, zone in (("a", a, zones[0]), ("b", b, zones[1]))
        ]
        with running(*replicas):
            result = agree([a, b], 800)
            assert {key: result[key] for key in CLEAN} == CLEAN
            assert result["sessions"] == 800


@pytest.mark.parametrize("workers", [1, 2])
def test_two_replicas_on_one_zone_without_a_store_split_no_session(tmp_path, zones, workers):
    *ports, a, b = free_ports(5)
    with running(*start_upstreams(tmp_path, ports)):
        replicas = [
            start_replica(tmp_path, name, port=port, upstream_ports=ports, zone=zones[0], workers=workers)
            for name, port in (("a", a), ("b", b))
        ]
        with running(*replicas):
            result = agree([a, b], 800)
            assert {key: result[key] for key in CLEAN} == CLEAN


async def _first_requests(users: list[User], ports: list[int]) -> None:
    """Each user's first requests, to all replicas at once, and one more each: now every replica knows every user."""
    for _ in range(2):
        await asyncio.gather(*(user.get(port) for user in users for port in ports))


async def test_killed_server_fails_only_what_was_sent_to_it_and_each_user_moves_once_alike_on_both(tmp_path, zones):
    *ports, a, b = free_ports(5)
    upstreams = start_upstreams(tmp_path, ports)
    users = [User([a, b], f"sid={uuid.uuid4().hex}") for _ in range(60)]
    with Memcached() as store, running(*upstreams):
        replicas = [
            start_replica(tmp_path, n, port=p, upstream_ports=ports, zone=z, memcached=[store.address])
            for n, p, z in (("a", a, zones[0]), ("b", b, zones[1]))
        ]
        with running(*replicas):
            try:
                await _first_requests(users, [a, b])
                assert not any(user.failures for user in users)
                before = {user: user.seen[-1] for user in users}
                assert collections.Counter(before.values()).keys() == {f"up-{port}" for port in ports}
                dead = f"up-{ports[0]}"
                upstreams[0].kill()
                upstreams[0].popen.wait()
                for user in users:
                    user.seen.clear()
                # Nothing is in flight when the server dies, so nothing may fail: a refused connection is retried
                # elsewhere, and an idle connection that died is found out before anything was received on it.
                for _ in range(5):
                    await asyncio.gather(*(user.get(port) for user in users for port in (a, b)))
                assert [user.failures for user in users if user.failures] == []
                for user in users:
                    answers = set(user.seen)
                    if before[user] == dead:
                        assert len(answers) == 1, f"moved to more than one server: {user.seen}"
                        assert dead not in answers
                    else:
                        assert answers == {before[user]}
            finally:
                await asyncio.gather(*(user.close() for user in users))


async def test_killed_store_fails_no_request_and_moves_no_user_that_both_replicas_know(tmp_path, zones):
    *ports, a, b = free_ports(5)
    users = [User([a, b], f"sid={uuid.uuid4().hex}") for _ in range(60)]
    with running(*start_upstreams(tmp_path, ports)), Memcached() as store:
        replicas = [
            start_replica(tmp_path, n, port=p, upstream_ports=ports, zone=z, memcached=[store.address])
            for n, p, z in (("a", a, zones[0]), ("b", b, zones[1]))
        ]
        with running(*replicas):
            try:
                await _first_requests(users, [a, b])
                before = {user: user.seen[-1] for user in users}
                store.kill()
                end = asyncio.get_running_loop().time() + 3.0  # past near_ttl, so that entries are verified meanwhile
                while asyncio.get_running_loop().time() < end:
                    await asyncio.gather(*(user.get(port) for user in users for port in (a, b)))
                assert [user.failures for user in users if user.failures] == []
                assert all(set(user.seen) == {before[user]} for user in users)
                # New users while the store is away: both replicas compute the same server.
                strangers = [User([a, b], f"sid={uuid.uuid4().hex}") for _ in range(40)]
                users += strangers
                await asyncio.gather(*(user.get(port) for user in strangers for port in (a, b)))
                assert all(len(set(user.seen)) == 1 and not user.failures for user in strangers)
            finally:
                await asyncio.gather(*(user.close() for user in users))
