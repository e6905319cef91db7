"""The JSON that the admin interface answers with, out of figures and orders. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastroute.config.membership import name_of
from fastroute.config.schema import PoolConfig
from fastroute.metrics.figures import Figures, PoolFigures, ServerFigures
from fastroute.metrics.notice import LAYER_AGAIN_S, LayerSeen, PoolChanges
from fastroute.proxy.layers import said
from fastroute.proxy.orders import Order
from fastroute.session.foreign import is_meant

__all__ = ["changes_of", "order_of", "pool_of", "ready", "server_of", "statistics_of", "warnings_of"]


def server_of(server: ServerFigures, order: Order, deadline_s: float | None = None) -> dict[str, Any]:
    """One server.

    Args:
        deadline_s: wall clock at which its drain ends.
    """
    return {
        "name": server.name,
        "address": server.address,
        "state": server.state,
        "weight": server.weight,
        "weight_effective": server.weight_effective,
        "backup": server.backup,
        "in_flight": server.in_flight,
        "bindings": server.bindings,
        "requests_total": server.requests,
        "failures_total": server.failures,
        "responses": server.responses,
        "latency_ms": round(server.latency_s * 1000, 3),
        "last_check": server.last_check,
        "states": server.states,
        "order": order_of(order, deadline_s),
    }


def order_of(order: Order, deadline_s: float | None = None) -> dict[str, Any] | None:
    """What an operator gave, None for nothing."""
    if order.state is None and order.weight is None:
        return None
    told = {"state": order.state, "weight": order.weight, "given_at": order.given_ms / 1000}
    return told if deadline_s is None else {**told, "deadline_at": deadline_s}


def pool_of(pool: PoolFigures, servers: list[dict[str, Any]]) -> dict[str, Any]:
    """One pool."""
    return {
        "name": pool.name,
        "policy": pool.policy,
        "ready": pool.ready_min,
        "panic": pool.panic,
        "pending": pool.pending,
        "bindings": pool.bindings,
        "requests_total": pool.requests,
        "selections": {reason: count for reason, count in pool.selections.items() if count},
        "retries": pool.retries,
        "servers": servers,
    }


def changes_of(changes: PoolChanges) -> dict[str, Any]:
    """What differs from the file in one pool."""
    return {
        "added": sorted(name_of(one) for one in changes.added),
        "removed": sorted(changes.removed),
        "found": None if changes.found is None else len(changes.found),
        "found_at": changes.found_at_s or None,
        "found_note": changes.found_note,
    }


def warnings_of(name: str, config: PoolConfig, layers: list[LayerSeen], now_s: float) -> list[dict[str, Any]]:
    """What is probably not as meant in one pool: other layers that are sticky too, told within a day.

    Args:
        layers: what the replica's notice says of all pools.
        now_s: wall clock.
    """
    if config.sticky is None:
        return []
    meant = config.sticky.ignore_layers
    return [
        {
            "kind": "sticky-layer",
            "side": one.side,
            "product": one.product,
            "cookie": one.cookie,
            "at": one.at_s,
            "text": said(one),
        }
        for one in layers
        if one.pool == name and now_s - one.at_s < LAYER_AGAIN_S and not is_meant(one.product, one.cookie, meant)
    ]


def ready(figures: Figures) -> list[str]:
    """Why the replica is not ready; empty when it is."""
    reasons = []
    if figures.stopping:
        reasons.append("the replica is stopping")
    accepting = sum(accepts for _, _, accepts, _ in figures.workers)
    if accepting < figures.workers_wanted:
        reasons.append(f"{accepting} of {figures.workers_wanted} workers accept")
    for pool in figures.pools:
        if not any(server.state == "ready" and server.weight for server in pool.servers):
            reasons.append(f"pool {pool.name} has no ready server")
    return reasons


def statistics_of(figures: Figures, version: str) -> dict[str, Any]:
    """Everything that is counted."""
    pools = {}
    for pool in figures.pools:
        told = dataclasses.asdict(pool)
        told["requests"] = pool.requests
        told["servers"] = {server.pop("name"): server for server in told["servers"]}
        told["near_modes"] = [("none", "poll", "push")[mode] for mode in pool.near_modes]
        pools[told.pop("name")] = told
    return {
        "version": version,
        "workers": [
            {"row": row, "pid": pid, "accepting": accepting, "follows": follows}
            for row, pid, accepting, follows in figures.workers
        ],
        "workers_wanted": figures.workers_wanted,
        "listeners": {name: {"connections": count} for name, count in figures.listeners.items()},
        "engine": figures.engine,
        "pools": pools,
        "store": {
            node.name: {k: v for k, v in dataclasses.asdict(node).items() if k != "name"} for node in figures.nodes
        },
        "reloads": {"ok": figures.reloads_ok, "refused": figures.reloads_refused},
    }
