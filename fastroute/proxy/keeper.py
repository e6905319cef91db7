"""The keeper: the one worker of a replica that asks servers how they are, and tells the fleet and the other workers.

Theory of operation. Each worker offers itself a few times a second; the board's lease (LEASE_S, given up with the
worker's row at once) lets one be the keeper. It runs the probes that fall to this replica (fastroute.fleet.probes),
exchanges presence and results with the other replicas when there is a store and a secret, and writes what holds of
each server into the board, which all workers follow. When it goes, the verdicts stay and the next one takes them over.

Not here: how servers are asked (fastroute.health.checks), what is believed (fastroute.fleet), what workers make of it
(fastroute.health.standing).

Rules of this file: it shares its event loop with requests, so that nothing here waits or walks for long; every task has
a time limit; a flip is logged here, once per replica, with its reason; no failure of the store stops a check.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastroute.clock import SYSTEM, Clock
from fastroute.fleet.messages import Mail, Seal
from fastroute.fleet.presence import Presence, own_facts
from fastroute.fleet.probes import Held, Key, Plan, Probes
from fastroute.health.checks import CheckSpec, Outcome, run_check
from fastroute.health.life import boot_of
from fastroute.health.state import heaviness
from fastroute.health.verdict import Verdict
from fastroute.proxy.tls import upstream_context
from fastroute.proxy.verdicts import Verdicts

if TYPE_CHECKING:
    from fastroute.config.schema import Config, PoolConfig
    from fastroute.model import Server
    from fastroute.proxy.build import Parts
    from fastroute.proxy.seat import Seat

__all__ = ["CHECKS_MAX", "Keeper", "keeps_anything"]

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

HEALTH = "health"
"""Kind of message."""

CHECKS_MAX = 128
"""Checks in flight at once, over all pools: connections and descriptors that requests do not get."""

TICK_S_MIN, TICK_S_MAX = 0.005, 0.1

log = logging.getLogger("fastroute.health")


def keeps_anything(config: Config) -> bool:
    """Is there anything for a keeper to do? With a store and a secret there is always a fleet to be part of."""
    return any(pool.health is not None for pool in config.pools.values()) or has_fleet(config)


def has_fleet(config: Config) -> bool:
    """Can this replica be part of a fleet: is there a store, and a secret to sign with?"""
    return config.store is not None and bool(config.secret)


@dataclass(slots=True)
class _Asked:
    """A server, and how it is asked."""

    server: Server
    spec: CheckSpec
    config: PoolConfig
    heavy: str | None = None


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
        self._board = seat.row.board
        self._pid = os.getpid()
        self._verdicts = Verdicts(self._board, seat.columns.servers)
        self._task: asyncio.Task[None] | None = None
        self.probes: Probes | None = None
        self.presence: Presence | None = None
        self.mail: Mail | None = None
        self._asked: dict[Key, _Asked] = {}
        self._specs: dict[str, CheckSpec] = {}
        self._versions: tuple[int, ...] = ()
        self._room = asyncio.Semaphore(CHECKS_MAX)
        self._running: set[asyncio.Task[None]] = set()
        self._told_checks: dict[Key, tuple[float, str]] = {}

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
        self._asked, self._versions = self._who(), self._pool_versions()
        self.probes = Probes(self._board.name or "replica", self._plans(), clock=self._clock)
        self._resume(self.probes)
        tasks: list[asyncio.Task[None]] = []
        store = await self._open_store()
        try:
            if store is None:
                self.probes.members(())
            else:
                self.mail = Mail(store, Seal(self._config.secret, self._config.fleet), self.probes.me)
                self.presence = Presence(self.mail, self._facts, clock=self._clock)
                tasks.append(asyncio.get_running_loop().create_task(self._exchange(self.mail, self.presence)))
            tasks.append(asyncio.get_running_loop().create_task(self._ask()))
            while self._lease():
                for task in tasks:
                    if task.done():
                        task.result()
                self._follow_members()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in (*tasks, *self._running):
                task.cancel()
            await asyncio.gather(*tasks, *self._running, return_exceptions=True)
            if self.presence is not None and (self._alone or self._board.stopping):
                await self.presence.leave()
            if store is not None and store is not self._parts.store:
                await store.aclose()
            self.presence = self.mail = None

    def _who(self) -> dict[Key, _Asked]:
        """Everybody who is to be asked now."""
        found = {}
        for pool, parts in self._parts.pools.items():
            if parts.config.health is not None:
                spec = self._specs.get(pool)
                if spec is None:
                    spec = self._specs[pool] = spec_of(parts.config)
                for server in parts.pool.servers:
                    found[pool, server.name] = _Asked(server, spec, parts.config)
        return found

    def _pool_versions(self) -> tuple[int, ...]:
        return tuple(parts.pool.version for parts in self._parts.pools.values())

    def _follow_members(self) -> None:
        """Servers that joined are asked from now on, those that left no more."""
        versions = self._pool_versions()
        if versions == self._versions or self.probes is None:
            return
        self._versions = versions
        who = self._who()
        for key in self._asked.keys() - who.keys():
            self._verdicts.give(*key, None)  # if it comes back it begins anew
        self._asked = who
        self.probes.update(self._plans())

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

    def _plans(self) -> dict[Key, Plan]:
        return {key: plan_of(one.config) for key, one in self._asked.items()}

    def _resume(self, probes: Probes) -> None:
        """Go on from what the keeper before this one said; take back what nobody looks after any more."""
        for pool, servers in self._seat.columns.servers.items():
            for server in servers:
                verdict = self._verdicts.of(pool, server)
                if verdict is None:
                    continue
                if (pool, server) in self._asked:
                    probes.resume((pool, server), not verdict.down, verdict.joining, verdict.restarts)
                else:
                    self._verdicts.give(pool, server, None)

    def _facts(self) -> dict[str, Any]:
        workers = [pid for _, pid, _, _ in self._board.workers()]
        return own_facts(workers=len(workers), supervisor=os.getppid())

    # ---- the fleet

    async def _exchange(self, mail: Mail, presence: Presence) -> None:
        """Presence and results, for as long as this worker is the keeper."""
        assert self.probes is not None
        presence_s = published_s = -1e9
        while True:
            now_s = self._clock.monotonic_s()
            if now_s - presence_s >= presence.interval_s:
                presence_s = now_s
                await presence.turn()
                self.probes.members(presence.names)
            if self._asked and (self.probes.dirty or now_s - published_s >= PUBLISH_S):
                published_s = now_s
                await mail.publish(HEALTH, self.probes.me, self.probes.body(), HEALTH_TTL_S)
            others = [name for name in presence.names if name != self.probes.me]
            if others and self._asked:
                found = await mail.fetch(HEALTH, others)
                self.probes.hear({name: one.message.body for name, one in found.items() if one.message is not None})
            else:
                self.probes.hear({})
            self._tell()
            end_s = now_s + EXCHANGE_S
            while self._clock.monotonic_s() < end_s and not self.probes.dirty:  # noqa: ASYNC110
                await asyncio.sleep(TICK_S_MAX)

    # ---- asking

    async def _ask(self) -> None:
        assert self.probes is not None
        loop = asyncio.get_running_loop()
        while True:
            for key, what in self.probes.due():
                if what == "check":
                    task = loop.create_task(self._check(key))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            next_s = self.probes.next_s()
            wait_s = TICK_S_MAX if next_s is None else next_s - self._clock.monotonic_s()
            await asyncio.sleep(min(max(wait_s, TICK_S_MIN), TICK_S_MAX))

    async def _check(self, key: Key) -> None:
        asked = self._asked.get(key)
        if asked is None:  # it left a moment ago
            return
        async with self._room:
            outcome = await run_check(asked.spec, asked.server.address, pool=key[0], server=key[1])
        health = asked.config.health
        if self.probes is None or health is None or key not in self._asked:
            return
        heavy = heaviness(outcome.seconds, outcome.size_bytes, health.timeout_s) if outcome.ok else None
        if heavy is not None and asked.heavy is None:
            log.warning("pool %s: the check of server %s is heavy: %s; it is asked more rarely", *key, heavy)
        asked.heavy = heavy
        boot = boot_of(
            outcome.fields, health.boot_header, health.uptime_header, self.probes.boot_of(key), self._clock.wall_s()
        )
        self.probes.checked(
            key,
            outcome.ok,
            outcome.detail,
            outcome.seconds,
            heavy=heavy is not None,
            refused=outcome.refused,
            boot=boot,
        )
        self._count(key, outcome)
        self._tell()

    def _count(self, key: Key, outcome: Outcome) -> None:
        """Write a check of our own down for the admin interface."""
        column = self._seat.columns.servers[key[0]].get(key[1], 0)
        if column:
            self._board.note_check(
                column,
                int(self._clock.wall_s() * 1000),
                int(outcome.seconds * 1e9),
                f"{'ok' if outcome.ok else 'failed'}\0{self._board.name}\0{outcome.detail}",
                own=True,
                ok=outcome.ok,
            )

    # ---- telling

    def _tell(self) -> None:
        """Bring the board up to date with what is held; log what flipped."""
        assert self.probes is not None
        for key, held in self.probes.news():
            before = self._verdicts.of(*key)
            self._log(key, held, before)
            self._verdicts.give(*key, self._verdict_of(held))
        for key in self._asked:
            self._tell_heard(key)

    def _verdict_of(self, held: Held) -> Verdict:
        return Verdict(down=held.up is False, joining=held.joining, restarts=held.restarts)

    def _tell_heard(self, key: Key) -> None:
        """Write down the last check that another replica made."""
        assert self.probes is not None
        last = self.probes.last(key)
        column = self._seat.columns.servers[key[0]].get(key[1], 0)
        if last is None or not column or last.by == self.probes.me:
            return
        if self._told_checks.get(key) == (last.at_s, last.by):
            return
        self._told_checks[key] = (last.at_s, last.by)
        at_ms = int((self._clock.wall_s() - (self._clock.monotonic_s() - last.at_s)) * 1000)
        tells = f"{'ok' if last.ok else 'failed'}\0{last.by}\0{last.tells}"
        self._board.note_check(column, at_ms, int(last.seconds * 1e9), tells, own=False, ok=last.ok)

    def _log(self, key: Key, held: Held, before: Verdict | None) -> None:
        pool, server = key
        if held.up is False and (before is None or not before.down):
            log.warning("pool %s: server %s is down: %s (asked by %s)", pool, server, held.why, held.by)
        elif held.up and before is not None and before.down:
            log.warning("pool %s: server %s is up again: %s (asked by %s)", pool, server, held.why, held.by)
        elif held.up and before is not None and before.restarts != held.restarts:
            log.warning("pool %s: server %s has restarted (seen by %s)", pool, server, held.by)


def spec_of(of: PoolConfig) -> CheckSpec:
    """How a pool's servers are asked."""
    health = of.health
    assert health is not None
    return CheckSpec(
        kind=health.check,
        path=health.path,
        method=health.method,
        host=health.host,
        expect=health.expect,
        body=health.body,
        port=health.port,
        command=health.command,
        timeout_s=health.timeout_s,
        tls=upstream_context(of.tls) if of.tls is not None and health.check in ("tls", "http") else None,
        tls_name=of.tls.server_name if of.tls is not None else "",
    )


def plan_of(of: PoolConfig) -> Plan:
    """When they are asked."""
    health = of.health
    assert health is not None
    return Plan(
        interval_s=health.interval_s,
        fast_interval_s=health.fast_interval_s,
        rise=health.rise,
        fall=health.fall,
        shared=health.fleet,
    )
