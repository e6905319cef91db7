"""Passive health: how long a server that refuses stays out."""

from __future__ import annotations

from fastroute.health.passive import Passive


def test_absence_doubles_from_one_second_to_thirty() -> None:
    health = Passive()
    assert [health.refused("a", others_ready=1) for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_accepted_connection_clears_the_record() -> None:
    health = Passive()
    health.refused("a", others_ready=1)
    health.refused("a", others_ready=1)
    health.accepted("a")
    assert health.refused("a", others_ready=1) == 1


def test_servers_are_judged_apart() -> None:
    health = Passive()
    health.refused("a", others_ready=1)
    assert health.refused("b", others_ready=1) == 1


def test_the_last_server_stays_in_and_its_record_does_not_grow() -> None:
    health = Passive()
    assert health.refused("a", others_ready=0) is None
    assert health.refused("a", others_ready=1) == 1
