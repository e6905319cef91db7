"""A moment's figures of one replica, read from its board: sums over its workers.

Not here: their form for people or programs (families, fastroute.admin). Rules of this file: nothing waits and
nothing is written; counters come from all rows that were ever taken, gauges from living workers alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastroute._core.board import BOUNDS_S, CLASSES, REASONS, Board
from fastroute._core.http_wire import COUNT_WORDS, counters_of
from fastroute._core.mc_queue import ROUNDTRIP_BOUNDS_S
from fastroute.config.schema import Config
from fastroute.metrics.layout import (
    CACHE_RESULTS,
    LAYER_SIDES,
    NODE_COUNTED,
    NODE_COUNTED_AT,
    NODE_GAUGES,
    NODE_GAUGES_AT,
    POOL_CACHE_AT,
    POOL_COUNTED,
    POOL_COUNTED_AT,
    POOL_GAUGES,
    POOL_GAUGES_AT,
    POOL_LAYERS_AT,
    Columns,
)
from fastroute.model import STATES

__all__ = ["Figures", "NodeFigures", "PoolFigures", "ServerFigures", "read"]

_WORSE = ("maintenance", "draining", "down", "ejected", "ready")
"""Of states that as many workers see, the first counts: what an operator ordered is never hidden."""


@dataclass(slots=True)
class ServerFigures:
    """One server; `state` is what most workers say, `states` how many say which."""

    name: str
    address: str
    state: str
    states: dict[str, int]
    weight: int
    weight_effective: float
    in_flight: int
    responses: dict[str, int]
    requests: int
    failures: int
    latency_s: float
    flips: dict[str, int]
    backup: bool = False
    last_check: dict[str, Any] = field(default_factory=dict)
    """What the last check came to; empty where servers are not checked."""
    bindings: int | None = None


@dataclass(slots=True)
class PoolFigures:
    """One pool."""

    name: str
    policy: str
    servers: list[ServerFigures]
    selections: dict[str, int]
    own_responses: dict[str, int]
    """Answers that no server gave."""
    retries: dict[str, int]
    duration_counts: list[int]
    duration_sum_s: float
    counted: dict[str, int]
    ready_min: int
    panic: bool
    pending: int
    near_modes: list[int]
    """Of each worker."""
    bindings: int | None = None
    layers: dict[str, int] | None = None
    """Sightings of other sticky layers by side; None: they are not looked for."""

    @property
    def requests(self) -> int:
        """Final responses to clients."""
        return sum(self.own_responses.values()) + sum(sum(one.responses.values()) for one in self.servers)


@dataclass(slots=True)
class NodeFigures:
    """One node of the store."""

    name: str
    up: bool
    """In every living worker."""
    up_workers: int
    in_flight: int
    counted: dict[str, int]
    roundtrip_counts: list[int]
    roundtrip_sum_s: float


@dataclass(slots=True)
class Figures:
    """Everything."""

    pools: list[PoolFigures]
    nodes: list[NodeFigures]
    listeners: dict[str, int]
    engine: dict[str, Any]
    workers: list[tuple[int, int, bool, int]]
    """(row, pid, accepting, version of the orders it follows) of each living worker."""
    workers_wanted: int
    reloads_ok: int
    reloads_refused: int
    stopping: bool
    extra: dict[str, Any] = field(default_factory=dict)
    certificates: list[tuple[str, str, float]] = field(default_factory=list)
    """(listener, server name or "", when it ends in seconds since 1970)."""


def read(board: Board, columns: Columns, config: Config) -> Figures:
    """Read a board."""
    _, reloads_ok, reloads_refused, _ = board.reloads()
    return Figures(
        pools=[_pool(board, columns, name, config) for name in config.pools],
        nodes=[_node(board, columns.nodes[name], name) for name in (config.store.memcached if config.store else ())],
        listeners={name: board.sum_words("listener", at, living=True)[0] for name, at in columns.listeners.items()},
        engine=counters_of(
            board.sum_words("engine", 0, 0, COUNT_WORDS), board.sum_words("engine", 0, 0, COUNT_WORDS, True)
        ),
        workers=board.workers(),
        workers_wanted=config.workers,
        reloads_ok=reloads_ok,
        reloads_refused=reloads_refused,
        stopping=board.stopping,
        extra={"cache": _cached(board, columns, config)} if config.cache.enabled else {},
        certificates=[
            (name, asked_for, pair.ends_s)
            for name, listener in config.listeners.items()
            for asked_for, pair in (listener.tls.pairs if listener.tls is not None else ())
            if pair.ends_s
        ],
    )


def _cached(board: Board, columns: Columns, config: Config) -> dict[tuple[str, str], int]:
    """(pool, result) -> requests on its cached routes."""
    return {
        (name, result): count
        for name in config.pools
        for result, count in zip(
            CACHE_RESULTS,
            board.sum_words("pool", columns.pools[name], POOL_CACHE_AT, len(CACHE_RESULTS)),
            strict=True,
        )
    }


def _state(states: tuple[int, ...]) -> str:
    """What most of the workers say."""
    most = max(states)
    if not most:
        return "down"
    return next(state for state in _WORSE if states[STATES.index(state)] == most)


def _pool(board: Board, columns: Columns, name: str, config: Config) -> PoolFigures:
    of, at = config.pools[name], columns.pools[name]
    servers = sorted(of.server_list(), key=lambda one: one.name)
    found = []
    for server, sums in zip(
        servers, board.server_sums([columns.servers[name][one.name] for one in servers]), strict=True
    ):
        responses, requests, failures, flips, in_flight, latency_ns, weight, weight_effective, states = sums
        told = any(states)
        found.append(
            ServerFigures(
                server.name,
                server.address,
                _state(states),
                {state: count for state, count in zip(STATES, states, strict=True) if count},
                weight if told else server.weight,
                weight_effective if told else float(server.weight),
                in_flight,
                dict(zip(CLASSES, responses, strict=True)),
                requests,
                failures,
                latency_ns / 1e9,
                dict(zip(STATES, flips, strict=True)),
                server.backup,
                _check(board, columns.servers[name][server.name]) if of.health is not None else {},
            )
        )
    words = board.sum_words("pool", at, 0, POOL_GAUGES_AT)
    reasons, classes, bounds = len(REASONS), len(CLASSES), len(BOUNDS_S)
    duration = words[reasons + classes + 2 : POOL_COUNTED_AT]
    gauges = [
        dict(zip(POOL_GAUGES, row, strict=True))
        for _, row in board.words_by_row("pool", at, POOL_GAUGES_AT, len(POOL_GAUGES))
    ]
    gauges = [one for one in gauges if one["servers"]]  # those that have said something
    return PoolFigures(
        name,
        of.policy,
        found,
        dict(zip(REASONS, words, strict=False)),
        dict(zip(CLASSES, words[reasons:], strict=False)),
        {"ok": words[reasons + classes], "failed": words[reasons + classes + 1]},
        duration[: bounds + 1],
        duration[bounds + 1] / 1e9,
        dict(zip(POOL_COUNTED, words[POOL_COUNTED_AT:], strict=False)),
        min((one["ready"] for one in gauges), default=0),
        any(one["panic"] for one in gauges),
        sum(one["pending"] for one in gauges),
        [one["near_mode"] for one in gauges],
        layers=dict(zip(LAYER_SIDES, words[POOL_LAYERS_AT:], strict=False)) if of.looks_for_layers else None,
    )


def _check(board: Board, column: int) -> dict[str, Any]:
    """The last check of a server, whichever replica made it."""
    word, at_ms, latency_ns, checks, failed, flips, tells = board.check_of(column)
    if not at_ms:
        return {}
    how, _, rest = tells.partition("\0")
    by, _, detail = rest.partition("\0")
    return {
        "ok": how == "ok",
        "detail": detail,
        "at": at_ms / 1000,
        "duration_ms": round(latency_ns / 1e6, 3),
        "by": by,
        "checks": checks,
        "failed": failed,
        "flips": flips,
        "odd": bool(word & 16),
    }


def _node(board: Board, at: int, name: str) -> NodeFigures:
    words = board.sum_words("node", at, NODE_COUNTED_AT, len(NODE_COUNTED))
    counted = dict(zip(NODE_COUNTED, words, strict=True))
    gauges = [row for _, row in board.words_by_row("node", at, NODE_GAUGES_AT, len(NODE_GAUGES))]
    up = [row[NODE_GAUGES.index("up")] for row in gauges]
    return NodeFigures(
        name,
        bool(up) and all(up),
        sum(up),
        sum(row[NODE_GAUGES.index("in_flight")] for row in gauges),
        {key: value for key, value in counted.items() if not key.startswith("roundtrip")},
        [counted[f"roundtrips_{i}"] for i in range(len(ROUNDTRIP_BOUNDS_S) + 1)],
        counted["roundtrip_sum_ns"] / 1e9,
    )
