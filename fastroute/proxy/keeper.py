"""The keeper: the one worker of a replica that asks servers how they are, and tells the fleet and the other workers.

Theory of operation. Each worker offers itself a few times a second; the board's lease (LEASE_S, given up with the
worker's row at once) lets one be the keeper. It runs the probes that fall to this replica (fastroute.fleet.probes),
exchanges presence, results and load with the other replicas when there is a store and a secret, sweeps for outliers,
and writes what holds of each server into the board, which all workers follow. When it goes, the verdicts stay and the
next one takes them over.

Not here: how servers are asked (asking), what is believed (fastroute.fleet), what workers make of it
(fastroute.health.standing).

Rules of this file: it shares its event loop with requests, so that nothing here waits or walks for long; a flip is
logged here, once per replica, with its reason; no failure of the store stops a check.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastroute._core.zone_guest import GuestLoads
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.fleet import load
from fastroute.fleet.load import Load
from fastroute.fleet.messages import Mail, Message, Seal
from fastroute.fleet.presence import Presence, own_facts
from fastroute.fleet.probes import Held, Key, Probes, rank
from fastroute.health.checks import Outcome
from fastroute.health.content import current_of, odd_ones
from fastroute.health.verdict import Verdict
from fastroute.model import STATES
from fastroute.proxy.asking import Asking
from fastroute.proxy.store_told import StoreTold
from fastroute.proxy.sweeps import Sweeps, sweeps_anything
from fastroute.proxy.verdicts import Verdicts

if TYPE_CHECKING:
    from fastroute.config.schema import Config
    from fastroute.proxy.build import Parts
    from fastroute.proxy.seat import Seat

__all__ = ["Keeper", "has_fleet", "keeps_anything"]

LEASE_S = 2.0
"""A keeper that has not said so for this long is stopped or stuck: another worker takes over."""

LOOK_S = 0.25
"""Between two offers of a worker, and two renewals of the keeper's lease."""

EXCHANGE_S = 0.5
"""Between two readings of what other replicas say: what a flip takes to be known to all, with a worker's own look."""

PUBLISH_S = 1.0
"""At least so often this replica says what it holds; at once when that has changed."""

HEALTH_TTL_S = 5.0
"""What a replica said of its servers stays readable for this long."""

TICK_S = 0.1
"""Between two looks whether there is something to say at once."""

LEAVING_MAX = 256
"""Servers that drain or are in maintenance which a replica tells the fleet of: some 40 bytes each, once a second."""

HEALTH, CURRENT = "health", "current"
"""Kind of message, and its entry with the pools' current contents."""

log = logging.getLogger("fastroute.health")


def has_fleet(config: Config) -> bool:
    """Can this replica be part of a fleet: is there a store, and a secret to sign with?"""
    return config.store is not None and bool(config.secret)


def keeps_anything(config: Config, parts: Parts) -> bool:
    """Is there anything for a keeper to do? With a store and a secret there is always a fleet to be part of."""
    return any(pool.health is not None for pool in config.pools.values()) or has_fleet(config) or sweeps_anything(parts)


class Keeper:
    """One worker's part.

    Args:
        config: of the worker.
        parts: built, open.
        seat: of the worker; its board holds lease and verdicts.
        alone: no other process follows this board.
        clock: for presence and probes.

    Notes: belongs to one event loop; start(), aclose().
    """

    def __init__(self, config: Config, parts: Parts, seat: Seat, *, alone: bool = False, clock: Clock = SYSTEM) -> None:
        self._config, self._parts, self._seat, self._alone, self._clock = config, parts, seat, alone, clock
        self._board, self._columns = seat.row.board, seat.columns.servers
        self._pid = os.getpid()
        self._verdicts = Verdicts(self._board, self._columns)
        self._task: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        """Everything that one time as the keeper needs, anew."""
        self._asking = Asking(self._parts, self._clock, note=self._note, tell=self._tell)
        self._probes = Probes(self._board.name or "replica", self._asking.plans(), clock=self._clock)
        self._sweeps = Sweeps(self._parts, self._board, self._seat.columns, self._clock)
        self._store_told = StoreTold(self._board, self._seat.columns.nodes if self._config.store else {})
        self._told_checks: dict[Key, tuple[float, str]] = {}
        self._current: dict[str, str] = {}
        self._odd: dict[str, set[str]] = {}
        self._names: tuple[str, ...] = ()
        self._versions: dict[str, int] = {}
        self._mail: Mail | None = None

    def start(self) -> None:
        """Offer this worker from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Offer it no longer; another worker takes over at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _lease(self) -> bool:
        return self._board.keep(self._pid, int(self._clock.monotonic_s() * 1000), int(LEASE_S * 1000))

    async def _run(self) -> None:
        while True:
            if self._lease():
                try:
                    await self._own()
                except Exception:
                    log.exception("health: the keeper failed and begins again; this is a bug in fastroute")
                finally:
                    self._board.end_keeping(self._pid)
            await asyncio.sleep(LOOK_S)

    # ---- while this worker is the keeper -----------------------------------------------------------------------------

    async def _own(self) -> None:
        self._begin()
        self._resume()
        loop, tasks = asyncio.get_running_loop(), []
        store, presence = await self._open_store(), None
        try:
            if store is None:
                self._probes.members(())
            else:
                mail = Mail(store, Seal(self._config.secret, self._config.fleet), self._probes.me)
                self._mail = mail
                presence = Presence(mail, self._facts, clock=self._clock)
                tasks.append(loop.create_task(self._exchange(mail, presence)))
                if self._load_pools():
                    tasks.append(loop.create_task(self._share_load(mail, presence)))
            if self._asking.asked:
                tasks.append(loop.create_task(self._asking.run(self._probes)))
            while self._lease():
                for task in tasks:
                    if task.done():
                        task.result()
                self._follow_members()
                self._store_told.turn(self._clock.monotonic_s())
                if self._sweeps.turn() | self._look_for_drift():
                    self._tell_all()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if presence is not None and (self._alone or self._board.stopping):
                await presence.leave()
            if store is not None and store is not self._parts.store:
                await store.aclose()

    async def _open_store(self) -> Any:
        """The store of the fleet, if there is one."""
        if not has_fleet(self._config):
            return None
        if self._parts.store is not None:
            return self._parts.store
        from fastroute.proxy.build import make_store

        store = make_store(self._config, watch=False)
        await store.start()
        return store

    def _resume(self) -> None:
        """Go on from what the keeper before this one said; take back what nobody looks after any more."""
        for pool, servers in self._columns.items():
            for server in servers:
                verdict = self._verdicts.of(pool, server)
                if verdict is None:
                    continue
                if (pool, server) in self._asking.asked:
                    self._probes.resume((pool, server), not verdict.down, verdict.joining, verdict.restarts)
                else:
                    self._verdicts.give(pool, server, None)

    def _follow_members(self) -> None:
        """Servers that joined are asked from now on, those that left no more."""
        gone = self._asking.follow_members()
        if gone is not None:
            for key in gone:
                self._verdicts.give(*key, None)  # if it comes back it begins anew
            self._probes.update(self._asking.plans())

    def _facts(self) -> dict[str, Any]:
        """What this replica says of itself; `refused`: messages of others that were not believed, by cause."""
        return own_facts(
            workers=len(self._board.workers()),
            supervisor=os.getppid(),
            asks=self._probes.owned,
            leaving=self._leaving(),
            refused=dict(self._mail.statistics.refused) if self._mail is not None else {},
        )

    def _leaving(self) -> dict[str, dict[str, list[str | int]]]:
        """pool -> server that drains or is in maintenance -> [its state, requests under way], for who waits for it.

        "ready" while some workers do not follow yet.
        """
        found: dict[str, dict[str, list[str | int]]] = {}
        room = LEAVING_MAX
        for pool, parts in self._parts.pools.items():
            columns, of = self._columns[pool], parts.pool
            states = {one.name: of.state_of(one.name) for one in of.servers if columns.get(one.name)}
            names = [name for name, state in states.items() if state in ("draining", "maintenance")][:room]
            room -= len(names)
            sums = self._board.server_sums([columns[name] for name in names]) if names else ()
            for name, row in zip(names, sums, strict=True):
                says = {STATES[at] for at, workers in enumerate(row[8]) if workers}
                state = states[name] if len(says) < 2 else "draining" if "draining" in says else "ready"
                found.setdefault(pool, {})[name] = [state, row[4]]
        return found

    # ---- the fleet ---------------------------------------------------------------------------------------------------

    async def _exchange(self, mail: Mail, presence: Presence) -> None:
        """Presence and results, for as long as this worker is the keeper."""
        presence_s = published_s = -1e9
        while True:
            now_s = self._clock.monotonic_s()
            if now_s - presence_s >= presence.interval_s:
                presence_s = now_s
                await presence.turn()
                self._names = presence.names
                self._probes.members(presence.names)
            if self._asking.asked:
                if self._probes.dirty or now_s - published_s >= PUBLISH_S:
                    published_s = now_s
                    body: dict[str, Any] = {**self._probes.body(), CURRENT: dict(self._current)}
                    await mail.publish(HEALTH, self._probes.me, body, HEALTH_TTL_S)
                others = [name for name in presence.names if name != self._probes.me]
                found = await mail.fetch(HEALTH, others)
                await self._hear({name: one.message for name, one in found.items() if one.message is not None})
            end_s = now_s + EXCHANGE_S
            while self._clock.monotonic_s() < end_s and not self._probes.dirty:  # noqa: ASYNC110
                await asyncio.sleep(TICK_S)

    async def _hear(self, messages: Mapping[str, Message]) -> None:
        """What other replicas say; of a pool's contents the one that the ring names for it decides what is current."""
        fresh = {name: one for name, one in messages.items() if self._versions.get(name) != one.version}
        self._versions = {name: one.version for name, one in messages.items()}
        bodies = {name: one.body for name, one in fresh.items()}
        for _ in self._probes.hear_in_steps({name: _without_current(body) for name, body in bodies.items()}):
            await asyncio.sleep(0)
        for pool in self._current:
            leader, _ = rank((pool, ""), self._names) if self._names else ("", "")
            body = bodies.get(leader)
            told = body.get(CURRENT) if isinstance(body, dict) else None
            if isinstance(told, dict) and isinstance(told.get(pool), str) and told[pool]:
                self._current[pool] = told[pool]
        for key in self._probes.touched():
            self._give(key)
            if self._tell_heard(key):
                await asyncio.sleep(0)

    # ---- load

    def _load_pools(self) -> list[str]:
        return [name for name, parts in self._parts.pools.items() if parts.config.fleet_load]

    def _in_flight(self) -> dict[str, dict[str, int]]:
        """What this replica has in flight in the pools that share it."""
        found = {}
        for pool in self._load_pools():
            columns = self._columns[pool]
            names = [server.name for server in self._parts.pools[pool].pool.servers if columns.get(server.name)]
            sums = self._board.server_sums([columns[name] for name in names])
            found[pool] = {name: row[4] for name, row in zip(names, sums, strict=True)}
        return found

    async def _share_load(self, mail: Mail, presence: Presence) -> None:
        """What is in flight on other machines, into the zone, for as long as this worker is the keeper."""
        zone = self._parts.zone
        if zone is None:  # a proxy whose affinity was handed in has none: its own requests are all that counts
            return
        try:
            guest = GuestLoads(zone)
        except UsageError as error:
            log.error("the fleet's load is not counted: %s", error)
            return
        where = f"{socket.gethostname()}:{zone.path}" if zone.path else ""
        shared = Load(mail, self._in_flight, zone=where, clock=self._clock)
        try:
            while True:
                others = await shared.turn(presence.names)
                for pool in self._load_pools():
                    told = others.get(pool, {})
                    servers = {one.name: told.get(one.name, 0) for one in self._parts.pools[pool].pool.servers}
                    guest.set(self._config.fleet, pool, servers)
                    if self._parts.pools[pool].config.policy == "least-connections":
                        places = max(1, self._parts.pools[pool].pool.ready_count)
                        part = load.turn_of(shared.machine, places, self._clock.wall_s())
                        guest.turn_within(self._config.fleet, pool, *part, zlib.crc32(mail.sender.encode()) & 0xFFFF)
                await asyncio.sleep(load.INTERVAL_S)
        finally:
            guest.close()

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _note(self, key: Key, outcome: Outcome) -> None:
        """Write a check of our own down for the admin interface."""
        column = self._columns[key[0]].get(key[1], 0)
        if column:
            self._board.note_check(
                column,
                int(self._clock.wall_s() * 1000),
                int(outcome.seconds * 1e9),
                f"{'ok' if outcome.ok else 'failed'}\0{self._board.name}\0{outcome.detail}",
                own=True,
                ok=outcome.ok,
            )

    def _tell(self) -> None:
        """Bring the board up to date with what is held of servers that something was heard of; log what flipped."""
        for key in self._probes.touched():
            self._give(key)
            self._tell_heard(key)

    def _tell_all(self) -> None:
        """The same for all, after a change that is not the probes'."""
        for key in self._asking.asked:
            self._give(key)
        for key, swept in self._swept():
            self._verdicts.give(*key, Verdict(ejected=swept))

    def _give(self, key: Key) -> None:
        held = self._probes.held(key) if key in self._asking.asked else None
        if held is None or held.up is None:
            return
        before, now = self._verdicts.of(*key), self._verdict_of(key, held)
        if before != now:
            self._log(key, held, before)
            self._verdicts.give(*key, now)

    def _swept(self) -> list[tuple[Key, bool]]:
        """Ejections of servers that nobody checks, made and over."""
        found = []
        for pool in self._parts.pools:
            for server in self._columns[pool]:
                key = (pool, server)
                if key not in self._asking.asked:
                    before, now = self._verdicts.of(*key), key in self._sweeps.until_s
                    if now or (before is not None and before.ejected):
                        found.append((key, now))
        return found

    def _verdict_of(self, key: Key, held: Held) -> Verdict:
        content = self._asking.asked[key].config.content
        odd = content is not None and key[1] in self._odd.get(key[0], ())
        return Verdict(
            down=held.up is False,
            ejected=key in self._sweeps.until_s or (odd and content is not None and content.on_drift == "eject"),
            keep_bound=odd and content is not None and content.on_drift == "keep-bound-only",
            joining=held.joining,
            odd=odd,
            restarts=held.restarts & 0xFFFFFFFF,
        )

    def _look_for_drift(self) -> bool:
        """Compare the contents of servers; has anything changed?"""
        changed = False
        for pool, parts in self._parts.pools.items():
            content = parts.config.content
            if content is None:
                continue
            fingerprints = self._probes.fingerprints(pool)
            self._current[pool] = current = current_of(fingerprints, self._current.get(pool, ""))
            odd, before = odd_ones(fingerprints, current), self._odd.get(pool, set())
            self._odd[pool] = odd
            changed |= odd != before
            for server in sorted(odd - before):
                told = (pool, server, fingerprints[server], current, content.on_drift)
                log.warning("pool %s: the contents of server %s (%s) differ from the pool's (%s): %s", *told)
            for server in sorted(before - odd):
                log.warning("pool %s: server %s has the pool's contents again", pool, server)
        return changed

    def _tell_heard(self, key: Key) -> bool:
        """Write down the last check that another replica made; False where there is none that is new."""
        if key not in self._asking.asked:
            return False
        last = self._probes.last(key)
        column = self._columns[key[0]].get(key[1], 0)
        if last is None or not column or last.by == self._probes.me:
            return False
        if self._told_checks.get(key) == (last.at_s, last.by):
            return False
        self._told_checks[key] = (last.at_s, last.by)
        at_ms = int((self._clock.wall_s() - (self._clock.monotonic_s() - last.at_s)) * 1000)
        tells = f"{'ok' if last.ok else 'failed'}\0{last.by}\0{last.tells}"
        self._board.note_check(column, at_ms, int(last.seconds * 1e9), tells, own=False, ok=last.ok)
        return True

    def _log(self, key: Key, held: Held, before: Verdict | None) -> None:
        pool, server = key
        if held.up is False and (before is None or not before.down):
            log.warning("pool %s: server %s is down: %s (asked by %s)", pool, server, held.why, held.by)
        elif held.up and before is not None and before.down:
            log.warning("pool %s: server %s is up again: %s (asked by %s)", pool, server, held.why, held.by)
        elif held.up and before is not None and before.restarts != held.restarts & 0xFFFFFFFF:
            log.warning("pool %s: server %s has restarted (seen by %s)", pool, server, held.by)


def _without_current(body: Any) -> Any:
    return {pool: entries for pool, entries in body.items() if pool != CURRENT} if isinstance(body, dict) else body
