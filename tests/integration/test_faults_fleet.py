"""What users of a fleet notice when something of it breaks: real balancers, servers and memcached, killed and stopped.

The load goes on all the time. Users of the first half are known to every replica, the others to one. Times are not
judged here (the machine may be starved): docs/design/faults.md has them, from benchmarks/faults.py.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.fault_scenarios import SCENARIOS, run
from tests.support.faults import Crowd, Report, Rig
from tests.support.shared import shared

HOLD_S = 0.8
TASKS = 16
"""Of the crowd: so many requests are under way at a time."""

IN_FLIGHT = 2 * TASKS
"""Of the crowd's 16 tasks each may lose two requests to a balancer that is killed: on the connection it had kept, and
on the one that it then got while the last of the balancer's processes was dying."""

RigMaker = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: pathlib.Path) -> Iterator[RigMaker]:
    rigs: list[Rig] = []

    def make(**named: object) -> Rig:
        rigs.append(Rig(tmp_path, **named).__enter__())  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


async def suffer(make_rig: RigMaker, name: str, hints: bool = False) -> Report:
    scenario = SCENARIOS[name]
    rig = make_rig(ways=scenario.ways, node_arguments=scenario.node_arguments, nodes=scenario.nodes)
    crowd = Crowd(rig.ports, users=120, hints=hints)
    try:
        return await run(rig, crowd, scenario, hold_s=HOLD_S, before_s=0.3, after_s=0.3)
    finally:
        crowd.close()


@pytest.mark.parametrize(
    "name",
    [
        "store killed and returned",
        "store paused",
        "store restarted",
        "store flushed",
        "store evicting",
        "one replica partitioned",
        "one replica 200 ms away",
    ],
)
async def test_a_store_that_fails_costs_no_request_and_moves_nobody_who_is_known(make_rig: RigMaker, name: str) -> None:
    report = await suffer(make_rig, name)
    assert (report.failed, report.failures) == (0, {})
    assert (report.moved_all, report.split_all) == (0, 0), "users known to every replica"
    assert report.moved_one_at_home == 0, "users known to the replica they reach"
    assert report.answered_by_moves == 0


@pytest.mark.parametrize("name", ["store killed", "server killed while the store is away"])
async def test_users_with_a_hint_stay_through_replicas_that_never_saw_them_while_the_store_is_away_and_after(
    make_rig: RigMaker, name: str
) -> None:
    report = await suffer(make_rig, name, hints=True)
    assert set(report.failures) <= ({"502"} if "server" in name else set()), "what the killed server had accepted"
    assert (report.moved_all, report.split_all, report.moved_one, report.split_one) == (0, 0, 0, 0)
    assert report.answered_by_moves <= 1


@pytest.mark.parametrize("name", ["server killed", "server killed while the store is away"])
async def test_a_killed_server_costs_at_most_what_was_sent_to_it_and_its_users_move_once_and_never_back(
    make_rig: RigMaker, name: str
) -> None:
    report = await suffer(make_rig, name)
    assert set(report.failures) <= {"502"}, "sent to it when it was killed, and beyond the budget of retries"
    assert report.failed <= TASKS
    assert (report.moved_all, report.split_all, report.moved_one_at_home) == (0, 0, 0), "users of the other servers"
    assert report.answered_by_moves <= 1, "each user of the killed one: one change of server, and no way back"


@pytest.mark.parametrize("name", ["replica killed and returned", "worker killed"])
async def test_a_killed_balancer_costs_what_was_under_way_in_it_and_moves_nobody(make_rig: RigMaker, name: str) -> None:
    report = await suffer(make_rig, name)
    assert report.failed <= IN_FLIGHT, report.failures
    assert (report.moved_all, report.split_all, report.moved_one, report.split_one) == (0, 0, 0, 0)
    assert report.answered_by_moves == 0


async def test_5000_users_who_come_first_through_four_balancers_at_once_are_not_split(make_rig: RigMaker) -> None:
    rig = make_rig(replicas=4, workers=2, store_timeout="2s")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(shared("tools", "agree.py")),
        *("--replicas", ",".join(f"127.0.0.1:{port}" for port in rig.ports)),
        *("--sessions", "5000", "--tasks", "50"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    tally = json.loads(out)
    assert process.returncode == 0, tally
    assert (tally["sessions"], tally["split"], tally["moved"]) == (5000, 0, 0)


OLD, NEW = "the old secret, of at least 32 bytes", "the new secret, of at least 32 bytes"


@pytest.mark.parametrize("on", ["insert", "cookie:sid"])
async def test_rotating_the_cookies_keys_in_three_steps_with_one_replica_late_moves_nobody(
    make_rig: RigMaker, on: str
) -> None:
    """Neither zone nor store can help: each step starts the replica afresh, and there is no store."""
    rig = make_rig(on=on, nodes=0, workers=1, secret=[OLD])
    crowd = Crowd(rig.ports, users=40, insert=on == "insert")
    try:
        await crowd.seed()
        for ring in ([OLD, NEW], [NEW, OLD], [NEW]):
            for replica in (0, 1):  # the second is late by a step while the first already works with the new ring
                rig.kill_replica(replica)
                rig.forget_zone(replica)
                rig.start_replica(replica, secret=ring)
                crowd.hang_up()
                answers = await crowd.survey()
                assert all(server == crowd.before[user] for (user, _), (server, _) in answers.items()), (ring, replica)
    finally:
        crowd.close()
