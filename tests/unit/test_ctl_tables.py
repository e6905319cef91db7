"""What `fastroute ctl` shows of what the admin interface says."""

from __future__ import annotations

from typing import Any

import pytest

from fastroute.cli import ctl_tables as tables


def pool(name: str, rebalance: dict[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "policy": "round-robin", "servers": [], "ready": 0, "panic": False}
    return {**told, "bindings": 4, "pending": 5, "requests_total": 6, "rebalance": rebalance}


def test_pools_that_are_evened_out_say_what_has_moved_and_what_is_left() -> None:
    rows = tables.printed(
        tables.pools([pool("even", {"per_second": 20, "idle_s": 9.0, "moved": 17, "left": 23}), pool("as-is", None)])
    ).splitlines()
    assert [row.split() for row in rows] == [
        ["POOL", "POLICY", "SERVERS", "READY", "BINDINGS", "MOVED", "TO", "MOVE", "PENDING", "REQUESTS", "NOTE"],
        ["even", "round-robin", "0", "0", "4", "17", "23", "5", "6"],
        ["as-is", "round-robin", "0", "0", "4", "-", "-", "5", "6"],
    ]


def test_pools_that_are_not_evened_out_have_no_columns_for_it() -> None:
    assert "MOVED" not in tables.printed(tables.pools([pool("as-is", None)]))


ZONE = {"server": "web-1", "term": "0x1", "generation": 2, "once": True, "provisional": False, "age_ms": 11776}


def test_a_binding_is_told_in_words():
    store = {"status": "hit", "server": "web-1", "term": "0x1", "generation": 2}
    said = tables.binding({"pool": "app", "bound": True, "server": "web-1", "zone": ZONE, "store": store})
    assert said.splitlines() == [
        "app: bound to web-1",
        "  zone: web-1, term 0x1, generation 2, 11.8 s old, seen once",
        "  store: web-1, term 0x1, generation 2",
    ]


def test_a_key_that_is_not_bound_has_no_term():
    store = {"status": "miss", "server": None, "term": "0x0", "generation": 0}
    said = tables.binding({"pool": "app", "bound": False, "server": None, "zone": None, "store": store})
    assert said.splitlines() == ["app: not bound", "  store: nothing"]


def test_one_is_not_several():
    assert [tables.counted(count, "binding") for count in (0, 1, 2)] == ["0 bindings", "1 binding", "2 bindings"]


def served(state: str) -> dict[str, Any]:
    one: dict[str, Any] = {"name": "web-1", "state": state, "weight": 1, "weight_effective": 1.0, "in_flight": 0}
    one |= {"bindings": 7, "requests_total": 1234, "failures_total": 0, "latency_ms": 4.5}
    return {"name": "app", "servers": [{**one, "order": {"state": state, "weight": 3}}]}


def test_a_table_is_as_wide_as_it_needs_to_be_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = tables.printed(tables.servers([served("maintenance")]))
    assert "maintenance, weight 3" in said
    assert "\N{HORIZONTAL ELLIPSIS}" not in said


def test_a_table_that_must_fit_keeps_who_it_is_and_how_it_is() -> None:
    whole = tables.servers([served("maintenance")], {("app", "web-1"): 9.0})
    assert len(tables.fitted(whole, 200).columns) == 11
    told = [column.header for column in tables.fitted(whole, 80).columns]
    assert told == ["POOL", "SERVER", "STATE", "WEIGHT", "IN FLIGHT", "BINDINGS", "REQ/S", "FAILURES", "LATENCY"]
    lines = tables.printed(whole).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "maintenance" in lines[1]
