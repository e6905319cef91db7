"""What `fastroute ctl` shows of what the admin interface says."""

from __future__ import annotations

from typing import Any

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
