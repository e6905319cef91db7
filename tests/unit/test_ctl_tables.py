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
