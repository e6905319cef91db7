"""A worker's seat at its replica's board: where it counts, what it says of itself, which orders it follows.

Not here: what is counted per request (compiled: the relay, on the cells this file hands out), who reads it
(fastroute.metrics.figures). Rules of this file: nothing waits; a look costs two loads while nothing was ordered; what
the control plane counts goes on from what the row's last owner left.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from fastroute._core.board import Row, Tally
from fastroute.config.membership import name_of, servers_of
from fastroute.errors import UsageError
from fastroute.fleet.presence import make_name
from fastroute.health.verdict import Verdict
from fastroute.metrics.layout import (
    NODE_COUNTED,
    NODE_COUNTED_AT,
    NODE_GAUGES,
    NODE_GAUGES_AT,
    POOL_COUNTED,
    POOL_COUNTED_AT,
    POOL_GAUGES_AT,
    ROUNDTRIP_WORDS,
    Columns,
    Ledger,
    make_board,
)
from fastroute.proxy.orders import Order, Orders, apply
from fastroute.proxy.verdicts import Verdicts

if TYPE_CHECKING:
    from fastroute.config.schema import Config, ServerConfig
    from fastroute.proxy.build import Parts, PoolParts

__all__ = ["LOOK_S", "Seat", "has_desk", "own_seat"]

LOOK_S = 0.1
"""How often a worker looks for orders: what `ctl` waits for at most, and a tenth of what a fleet is promised."""

LOOKS_PER_SAYING = 5
"""Gauges are written every so many looks: twice a second."""

log = logging.getLogger("fastroute.worker")


class Seat:
    """One worker's.

    Args:
        row: of the board, taken for this process.
        columns: of the worker's configuration.
    """

    def __init__(self, row: Row, columns: Columns) -> None:
        self.row, self.columns = row, columns
        self._orders = Orders(row.board, columns.servers)
        self._verdicts = Verdicts(row.board, columns.servers)
        self._version = -1
        self._looks = 0
        self._parts: Parts | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._bases: dict[tuple[str, str], list[int]] = {}
        self._noticed = 0
        self._servers: dict[str, tuple[ServerConfig, ...]] = {}
        self._weights: dict[str, dict[str, int]] = {}

    def tally(self, pool: str) -> Tally:
        """Where a pool's requests are counted."""
        return Tally(self.row, self.columns.pools[pool], self.columns.servers[pool])

    def start(self, parts: Parts) -> None:
        """Follow the orders that hold, and look for more from now on; before the first request."""
        self._parts = parts
        self._servers = {name: one.config.servers for name, one in parts.pools.items()}
        self._weights = {name: {name_of(one): one.weight for one in these} for name, these in self._servers.items()}
        self._bases = {
            **{("pool", name): self._pool_words(name) for name in parts.pools},
            **{("node", name): self._node_words(name) for name in self.columns.nodes},
        }
        for name, one in parts.pools.items():
            self._hold_back(name, one)
        self.look()
        self._say()
        self._handle = asyncio.get_running_loop().call_later(LOOK_S, self._again)

    def accept(self, accepting: bool) -> None:
        """The listeners accept, or no longer."""
        self.row.accept(accepting)

    def stop(self) -> None:
        """Look no more; what was counted last is written down."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self._say()
        self._parts = None

    def look(self) -> None:
        """Do what was ordered since the last look."""
        version = self.row.board.version
        if version == self._version or self._parts is None:
            return
        self._follow_members()
        for name, server, order in self._orders.changed():
            parts = self._parts.pools.get(name)
            if parts is not None:
                apply(parts.standing, server, order, self._weights[name].get(server, 1))
        for name, server, verdict in self._verdicts.changed():
            parts = self._parts.pools.get(name)
            if parts is not None and parts.config.judged:
                parts.standing.judge(server, verdict or _unknown(parts))
        self._version = version
        self._say_pools()
        self.row.follow(version)

    def _hold_back(self, name: str, parts: PoolParts) -> None:
        """Servers of which nothing is said yet are not ready where a hook must succeed first."""
        if parts.config.on_join is not None:
            for server in parts.pool.servers:
                if self._verdicts.of(name, server.name) is None:
                    parts.standing.judge(server.name, _unknown(parts))

    def _follow_members(self) -> None:
        """Take in and let go the servers that the notice says."""
        version, told = self.columns.notice.read()
        if version == self._noticed or self._parts is None:
            return
        self._noticed = version
        self.columns.learn(told)
        for name, parts in self._parts.pools.items():
            servers = servers_of(parts.config.servers, told.pools.get(name))
            if servers == self._servers[name]:
                continue
            weights = {name_of(one): one.weight for one in servers}
            rows = []
            for one in servers:
                order = self._orders.of(name, name_of(one)) if self.columns.servers[name].get(name_of(one)) else Order()
                row = one.server()
                rows.append(row if order.weight is None else row.replace(weight=order.weight))
            try:
                parts.change_servers(rows)
            except UsageError as error:  # it was checked where it was given: a bug, or another version's
                log.error("pool %s: its servers could not be changed: %s", name, error)
                continue
            self._hold_back(name, parts)
            log.info("pool %s has %d servers now", name, len(rows))
            self._servers[name], self._weights[name] = servers, weights
            self._orders.forget(name, weights.keys())

    def _again(self) -> None:
        try:
            self.look()
            self._looks += 1
            if self._looks % LOOKS_PER_SAYING == 0:
                self._say()
        except Exception:
            log.exception("orders could not be followed; this is a bug in fastroute, please report it")
        self._handle = asyncio.get_running_loop().call_later(LOOK_S, self._again)

    # What this worker says --------------------------------------------------------------------------------------------

    def _say(self) -> None:
        self._say_pools()
        if self._parts is not None and self._parts.store is not None:
            for node in self._parts.store.statistics():
                if node.name in self.columns.nodes:
                    self._say_node(node)

    def _say_pools(self) -> None:
        told: set[int] = set()
        for name, parts in self._parts.pools.items() if self._parts is not None else ():
            pool = parts.pool
            parts.tally.publish(pool)
            words = self.row.words("pool", self.columns.pools[name])
            words[POOL_GAUGES_AT + 0] = len(pool)
            words[POOL_GAUGES_AT + 1] = pool.ready_count
            words[POOL_GAUGES_AT + 2] = int(pool.panicking)
            words[POOL_GAUGES_AT + 3] = parts.lines.pending
            words[POOL_GAUGES_AT + 4] = _near_mode(parts)
            if id(parts.affinity) not in told:  # one affinity may serve several pools: it is counted once
                told.add(id(parts.affinity))
                self._count(words, POOL_COUNTED_AT, ("pool", name), POOL_COUNTED, _affinity_counts(parts.affinity))

    def _say_node(self, node: Any) -> None:
        words = self.row.words("node", self.columns.nodes[node.name])
        counts = {key: getattr(node, key, 0) for key in NODE_COUNTED}
        counts["roundtrip_sum_ns"] = int(node.roundtrip_sum_s * 1e9)
        for i, count in enumerate(node.roundtrip_counts[:ROUNDTRIP_WORDS]):
            counts[f"roundtrips_{i}"] = count
        self._count(words, NODE_COUNTED_AT, ("node", node.name), NODE_COUNTED, counts)
        for i, key in enumerate(NODE_GAUGES):
            words[NODE_GAUGES_AT + i] = int(getattr(node, key))

    def _count(
        self, words: memoryview, at: int, whose: tuple[str, str], keys: tuple[str, ...], counts: dict[str, int]
    ) -> None:
        base = self._bases[whose]
        for i, key in enumerate(keys):
            words[at + i] = base[i] + counts.get(key, 0)

    def _pool_words(self, name: str) -> list[int]:
        words = self.row.words("pool", self.columns.pools[name])
        return list(words[POOL_COUNTED_AT : POOL_COUNTED_AT + len(POOL_COUNTED)])

    def _node_words(self, name: str) -> list[int]:
        words = self.row.words("node", self.columns.nodes[name])
        return list(words[NODE_COUNTED_AT : NODE_COUNTED_AT + len(NODE_COUNTED)])


def has_desk(config: Config) -> bool:
    """Does a replica of this configuration have an admin process: one that is asked, follows a fleet or sources, or
    moves idle bindings?"""
    found = any(pool.discover is not None or pool.rebalance.per_second for pool in config.pools.values())
    return found or config.admin is not None or (config.store is not None and bool(config.secret))


def _unknown(parts: PoolParts) -> Verdict:
    """What holds for a server of which nothing is said: with a hook, that it has not succeeded yet."""
    return Verdict(joining=parts.config.on_join is not None)


def own_seat(config: Config) -> Seat:
    """A seat at a board that nobody else reads, for a proxy without a supervisor."""
    board = make_board(config, rows=1)
    board.name = make_name()
    columns = Ledger(board).assign(config)
    board.take(0, os.getpid())
    return Seat(board.row(0), columns)


def _near_mode(parts: PoolParts) -> int:
    """0: nothing is remembered near, or there is no store it could differ from; 1: polled; 2: pushed."""
    if getattr(parts.affinity, "store", None) is None:
        return 0
    return 2 if getattr(parts.affinity.statistics, "near_mode", "poll") == "push" else 1


def _affinity_counts(affinity: Any) -> dict[str, int]:
    statistics = getattr(affinity, "statistics", None)
    if statistics is None or not hasattr(statistics, "claims"):
        return {}
    counts = {key: getattr(statistics, key, 0) for key in POOL_COUNTED}
    for verb, results in (("claims", statistics.claims), ("moves", statistics.moves)):
        for result, count in results.items():
            key = "moves_moved" if result == "moved" else f"{verb}_{result}"  # a claim that found its server gone
            key = key if key in POOL_COUNTED else f"{verb}_unknown"
            counts[key] += count
    return counts
