"""Evens pools out after servers were added: idle bindings move to who has less than its share, so many in a second.

Off unless [pools.NAME.rebalance] per_second is set. Not here: the plan and the budget (rebalance_plan, pure), what idle
means and the move itself (fastroute.affinity.shift).

Theory of operation. What can be counted is this machine's zone: the users it has seen. Two machines that see the same
users and moved at once would both fill the new server, and neither's zone would know of the other's moves. So one moves
at a time, fleet-wide:
  * Of the processes of a zone, the one that holds a lock of the zone's file (per pool; it ends with the process).
  * Of the zones, the one whose turn it is: a signed message of the store, `fr:f:rebalance:<pool>`, that names the zone.
    It lives TURN_S and ttl - idle beyond its last renewal, and is renewed only by who moves. Whoever comes next, after
    it has run out, knows nothing stale: what was moved had not been used for `idle`, so that what other zones remember
    of it has expired by then, or was read anew.
A store that lost its records (restart, flush) gets them back from zones that do not know when other machines saw their
users. Its times are believed only `idle` later: each node holds a mark, `fr:f:rebalance:since`, that goes with its
records.

Rules of this file: nothing is moved that is not seen to be idle; without an answer of the store nothing is moved; a
turn is bounded in moves, in questions and in what it reads of the zone.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import math
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastroute._core.zone import Zone
from fastroute._core.zone_census import bindings_by_slot
from fastroute.admin.mirror import Mirror
from fastroute.admin.rebalance_plan import Budget, Member, Plan, plan_of
from fastroute.admin.replica import Replica
from fastroute.affinity.shift import TICK_MS, is_idle, shift
from fastroute.clock import SYSTEM, Clock
from fastroute.config.schema_rebalance import idle_s
from fastroute.fleet.messages import Mail
from fastroute.memcache.client import HIT, MISS
from fastroute.metrics.figures import PoolFigures, read

__all__ = ["TURN_EVERY_S", "Rebalancer"]

TURN_EVERY_S = 0.2
"""Between two turns: the budget of a second is spread over five."""

PLAN_S = 2.0
"""Between two counts of the bindings; and never more than 2 % of a core (PLAN_SHARE)."""
PLAN_SHARE = 50

ASKED_PER_TURN = 100
"""Bindings that the store is asked about in one turn, moved or not: 500 in a second."""

SCAN_BUCKETS = 4096
"""Buckets (1 KiB each) of the zone read in one turn: some 2 ms."""

TURN_S = 30.0
"""How long a zone may move before it says again that it is its turn."""
RENEW_S = 10.0
SLACK_S = 5.0

MARK_S = 2_592_000
"""Life of a node's mark: the longest that memcached keeps."""

KIND = "rebalance"

log = logging.getLogger("fastroute.admin")


@dataclass(slots=True)
class _State:
    """One pool's."""

    budget: Budget
    idle_s: float
    plan: Plan = field(default_factory=Plan)
    due_s: float = 0.0
    renewed_s: float = float("-inf")
    cursor: int = 0
    lock: int = -1
    moved: int = 0
    told: int = 0
    """Of `moved`, what was logged."""


class Rebalancer:
    """One replica's; call turn() every TURN_EVERY_S, and close() at the end.

    Args:
        replica: whose configuration and figures.
        mirror: open.
        mail: to agree with other machines; None without a store.
        note: called with (pool, text) for people.
        clock: of budgets.
    """

    def __init__(
        self,
        replica: Replica,
        mirror: Mirror,
        mail: Mail | None,
        note: Callable[[str, str], None],
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self._replica, self._mirror, self._mail, self._note, self._clock = replica, mirror, mail, note, clock
        self._pools = {
            name: _State(Budget(of.rebalance.per_second, TURN_EVERY_S), idle_s(replica.file, of))
            for name, of in replica.file.pools.items()
            if of.rebalance.per_second and of.sticky is not None
        }
        self._zone_name = b""

    @property
    def wanted(self) -> bool:
        """Is it on in any pool?"""
        return bool(self._pools)

    def counts(self) -> dict[str, int]:
        """Pool -> bindings moved since the start, of the pools where it is on."""
        return {name: state.moved for name, state in self._pools.items()}

    def told(self, pool: str) -> dict[str, Any] | None:
        """A pool's as JSON; None where it is off. `left`: what this process would still move now."""
        state = self._pools.get(pool)
        if state is None:
            return None
        of = {"per_second": state.budget.per_second, "idle_s": state.idle_s}
        return {**of, "moved": state.moved, "left": state.plan.left}

    async def turn(self) -> None:
        """Move what may be moved now."""
        for name, state in self._pools.items():
            if not self._held(name, state):
                continue
            now_s = self._clock.monotonic_s()
            if now_s >= state.due_s:
                await self._count(name, state)
                took_s = self._clock.monotonic_s() - now_s
                state.due_s = now_s + max(PLAN_S, PLAN_SHARE * took_s)
            if state.plan.left:
                await self._move(name, state)

    def close(self) -> None:
        """Leave it to other processes."""
        for state in self._pools.values():
            if state.lock >= 0:
                os.close(state.lock)
                state.lock = -1

    # What is uneven ---------------------------------------------------------------------------------------------------

    async def _count(self, name: str, state: _State) -> None:
        replica, mirror = self._replica, self._mirror
        if state.moved != state.told:
            text = f"{state.moved - state.told} idle bindings were moved to servers with less than their share"
            log.info("pool %s: %s", name, text)
            self._note(name, text)
            state.told = state.moved
        state.plan = Plan()
        config = replica.config
        mirror.follow_members(config)
        figures = read(replica.board, replica.columns, config)
        mirror.follow(figures)
        zone, of = mirror.zone, next(one for one in figures.pools if one.name == name)
        trusted = await self._nodes_are_old(state)  # asked always: a mark must stand long before it is needed
        if zone is None or of.panic or not trusted:
            return
        census = await asyncio.get_running_loop().run_in_executor(None, bindings_by_slot, zone)
        state.plan = plan_of(self._members(zone, of, census))

    def _members(self, zone: Zone, of: PoolFigures, census: dict[int, int]) -> list[Member]:
        fleet = self._replica.file.fleet
        return [
            Member(
                server.name,
                census.get(zone.server_slot(fleet, of.name, server.name), 0),
                server.weight,
                server.weight_effective,
                server.state == "ready",
                server.backup,
            )
            for server in of.servers
        ]

    # Moving -----------------------------------------------------------------------------------------------------------

    async def _move(self, name: str, state: _State) -> None:
        sticky, zone = self._mirror.sticky_of(name), self._mirror.zone
        if sticky is None or zone is None:
            return
        affinity, view = sticky
        asked = 0
        tick = self._mirror.zone_tick()
        idle_until = tick + math.floor((affinity.ttl_s - state.idle_s) * 1000 / TICK_MS)
        giver = next(iter(state.plan.givers()), None)
        if giver is None or state.budget.allowed(self._clock.monotonic_s()) <= 0:
            return
        if not await self._nodes_are_old(state):
            state.plan = Plan()
            return
        slot = zone.server_slot(self._replica.file.fleet, name, giver)
        found, following = affinity.table.scan(
            state.cursor, ASKED_PER_TURN, tick, slot=slot, expires_until=idle_until, buckets_max=SCAN_BUCKETS
        )
        room = state.budget.allowed(self._clock.monotonic_s())
        for fingerprint, entry in found:
            taker = state.plan.taker()
            if room <= 0 or taker is None or state.plan.gives[giver] <= 0 or asked >= ASKED_PER_TURN:
                return  # the same stretch again, next time
            if not is_idle(entry, tick, affinity.ttl_s, state.idle_s):
                continue
            asked += 1
            mine = self._mail is None or self._clock.monotonic_s() - state.renewed_s < RENEW_S
            outcome = await shift(
                affinity,
                view,
                fingerprint,
                taker,
                idle_s=state.idle_s,
                now_tick=self._mirror.zone_tick(),
                only_ask=not mine,
            )
            if outcome == "idle":  # there is something to move: is it this zone's turn?
                if not await self._take_turn(name, state, affinity.ttl_s):
                    state.plan = Plan()
                    return
                outcome = await shift(
                    affinity, view, fingerprint, taker, idle_s=state.idle_s, now_tick=self._mirror.zone_tick()
                )
            if outcome in ("moved", "unknown"):
                state.budget.spend(self._clock.monotonic_s())
                room -= 1
            if outcome == "moved":
                state.plan.moved(giver, taker)
                state.moved += 1
            elif outcome == "other":
                state.plan.lost(giver)  # it may have been counted twice, or ended
            elif outcome == "unknown":  # the store is away or late
                state.plan = Plan()
                return
        state.cursor = following or 0

    # One at a time ----------------------------------------------------------------------------------------------------

    def _held(self, name: str, state: _State) -> bool:
        """Is this the process of the zone that evens this pool out?"""
        zone = self._mirror.zone
        if state.lock >= 0 or zone is None or zone.path is None:
            return zone is not None
        try:
            lock = os.open(zone.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        at = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
        try:
            if hasattr(fcntl, "F_OFD_SETLK"):  # of this descriptor: no other close() of the file ends it
                fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))
        except OSError:
            os.close(lock)
            return False
        state.lock = lock
        return True

    def _me(self) -> bytes:
        """What names this zone in the fleet: the machine since its start, the host's name, the file."""
        if not self._zone_name:
            zone, boot = self._mirror.zone, ""
            try:
                with open("/proc/sys/kernel/random/boot_id") as file:
                    boot = file.read().strip()
            except OSError:  # pragma: no cover  another system
                pass
            path = zone.path if zone is not None and zone.path is not None else f"pid {os.getpid()}"
            inode = os.stat(path).st_ino if zone is not None and zone.path is not None else 0
            text = f"{boot}\0{socket.gethostname()}\0{path}\0{inode}"
            self._zone_name = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return self._zone_name

    async def _take_turn(self, name: str, state: _State, ttl_s: float) -> bool:
        """Say that it is this zone's turn, unless it is another one's."""
        assert self._mail is not None
        found = (await self._mail.fetch(KIND, [name], any_age=True))[name]
        message = found.message
        if not found.known or (message is not None and message.body != self._me()):
            return False
        lives_s = TURN_S + ttl_s - state.idle_s + SLACK_S
        above = message.version if message is not None else 0
        if await self._mail.replace(KIND, name, self._me(), lives_s, instead_of=found, above=above) is None:
            return False
        state.renewed_s = self._clock.monotonic_s()
        return True

    async def _nodes_are_old(self, state: _State) -> bool:
        """Has every node of the store had its records for long enough to say who is idle?"""
        store = self._mirror.store
        if store is None:
            return True
        key = f"{self._replica.file.fleet}:f:{KIND}:since"
        replies: list[Any] = await asyncio.gather(*[node.get(key) for node in store.nodes])
        old = True
        for node, reply in zip(store.nodes, replies, strict=True):
            if reply.status == MISS:
                await node.add(key, b"1", MARK_S)
            if reply.status != HIT or not 0 <= reply.ttl_s <= MARK_S - state.idle_s - 1:
                old = False
        return old
