"""When `fastroute ctl drain --wait` is over: rules, with an admin interface that the test says."""

from __future__ import annotations

from typing import Any

import pytest

from fastroute.cli import ctl_waits
from fastroute.cli.ctl_waits import REQUESTS_S, DrainWatch


class Told:
    """Stands in for AdminClient: says what the test wants."""

    def __init__(self, *, everywhere: bool = False) -> None:
        self.everywhere = everywhere
        self.server: dict[str, Any] = {}
        self.replicas: list[dict[str, Any]] = []

    def says(self, state: str, *, bindings: int = 0, in_flight: int = 0, states: dict[str, int] | None = None) -> None:
        self.server = {"state": state, "states": states or {state: 2}, "bindings": bindings, "in_flight": in_flight}

    def get(self, *path: str) -> Any:
        return {"replicas": self.replicas} if path == ("fleet",) else self.server


def over(told: Told, *, ends: bool = True) -> bool:
    return bool(DrainWatch(told, "app", "web-1", ends=ends).look()[3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("says", "ends", "is_over"),
    [
        (("draining", 3, 0), False, False),
        (("draining", 0, 1), False, False),
        (("draining", 0, 0), False, True),
        (("draining", 0, 0), True, False),
        (("maintenance", 3, 1), True, False),
        (("maintenance", 3, 0), True, True),
    ],
)
def test_a_drain_is_over_without_bindings_or_when_it_has_ended_and_never_with_requests(says, ends, is_over):
    told = Told()
    told.says(says[0], bindings=says[1], in_flight=says[2])
    assert over(told, ends=ends) is is_over


def test_a_worker_that_does_not_follow_yet_is_waited_for():
    told = Told()
    told.says("maintenance", states={"maintenance": 3, "draining": 1})
    assert not over(told)


@pytest.mark.parametrize(
    ("leaving", "is_over"),
    [
        ({"app": {"web-1": ["maintenance", 0]}}, True),
        ({"app": {"web-1": ["maintenance", 2]}}, False),
        ({"app": {"web-1": ["draining", 0]}}, False),
        ({"app": {}}, False),
        ({}, False),
        (None, True),
    ],
    ids=["done", "requests", "drains", "does-not-follow", "knows-of-none", "another-version"],
)
def test_with_fleet_every_replica_is_waited_for(leaving, is_over):
    told = Told(everywhere=True)
    told.says("maintenance")
    told.replicas = [{"name": "a", "here": True, "leaving": {}}, {"name": "b", "here": False, "leaving": leaving}]
    assert over(told) is is_over


def test_what_others_have_under_way_is_counted():
    told = Told(everywhere=True)
    told.says("maintenance", bindings=2, in_flight=1)
    told.replicas = [{"name": "b", "here": False, "leaving": {"app": {"web-1": ["maintenance", 4]}}}]
    left, line, as_json, _ = DrainWatch(told, "app", "web-1", ends=True).look()  # type: ignore[arg-type]
    assert (left, line) == (7, "app/web-1: maintenance, 2 bindings and 5 requests left")
    assert as_json == {"state": "maintenance", "bindings": 2, "in_flight": 5}


def test_streams_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch):
    told, now_s = Told(), 100.0
    monkeypatch.setattr(ctl_waits.time, "monotonic", lambda: now_s)
    watch = DrainWatch(told, "app", "web-1", ends=True)  # type: ignore[arg-type]
    told.says("draining", in_flight=1)
    assert not watch.look()[3]
    now_s += 10 * REQUESTS_S
    told.says("maintenance", in_flight=1)
    assert not watch.look()[3]
    now_s += REQUESTS_S - 1
    assert not watch.look()[3]
    now_s += 1
    assert watch.look()[3]
