"""Asking: what the keeper of a replica asks servers: checks, pages that are compared, hooks of servers that join.

Not here: when and whom (fastroute.fleet.probes), how (fastroute.health.checks), what follows (the keeper).
Rules of this file: at most CHECKS_MAX questions at once; each has a time limit; what was asked of a server that has
left meanwhile is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastroute.clock import Clock
from fastroute.fleet.probes import Key, Plan, Probes
from fastroute.health.checks import CheckSpec, Outcome, run_check
from fastroute.health.content import digest_of
from fastroute.health.life import boot_of
from fastroute.health.state import heaviness
from fastroute.proxy.proxy_protocol import format_header
from fastroute.proxy.tls import upstream_context

if TYPE_CHECKING:
    from fastroute.config.schema import PoolConfig
    from fastroute.model import Server
    from fastroute.proxy.build import Parts

__all__ = ["CHECKS_MAX", "Asking"]

CHECKS_MAX = 128
"""Questions in flight at once, over all pools: connections and descriptors that requests do not get."""

TICK_S_MIN, TICK_S_MAX = 0.02, 0.1
"""Between two looks at what is due, which walk over all servers: 0.5 ms for a thousand; and a new plan is seen soon."""

log = logging.getLogger("fastroute.health")


@dataclass(slots=True)
class _Asked:
    """A server, and how it is asked."""

    server: Server
    config: PoolConfig
    check: CheckSpec
    join: CheckSpec | None
    pages: tuple[CheckSpec, ...]
    heavy: str | None = None
    hook_failed: bool = False


class Asking:
    """The questions of one keeper.

    Args:
        parts: of the worker.
        clock: of the probes.
        note: called with (key, outcome) after each check.
        tell: called when what is held may have changed.
    """

    def __init__(
        self, parts: Parts, clock: Clock, *, note: Callable[[Key, Outcome], None], tell: Callable[[], None]
    ) -> None:
        self._parts, self._clock, self._note, self._tell = parts, clock, note, tell
        self._specs: dict[str, tuple[CheckSpec, CheckSpec | None, tuple[CheckSpec, ...]]] = {}
        self._room = asyncio.Semaphore(CHECKS_MAX)
        self._running: set[asyncio.Task[None]] = set()
        self.asked: dict[Key, _Asked] = self._who()
        self._versions = self._pool_versions()

    def plans(self) -> dict[Key, Plan]:
        """When everybody is asked."""
        return {key: _plan_of(one.config) for key, one in self.asked.items()}

    def follow_members(self) -> set[Key] | None:
        """Take in servers that joined and let go those that left, which are returned; None: nothing has changed."""
        versions = self._pool_versions()
        if versions == self._versions:
            return None
        self._versions, who = versions, self._who()
        gone = self.asked.keys() - who.keys()
        self.asked = {key: self.asked.get(key, one) for key, one in who.items()}
        for key, one in who.items():
            self.asked[key].server = one.server
        return set(gone)

    def _pool_versions(self) -> tuple[int, ...]:
        return tuple(parts.pool.version for parts in self._parts.pools.values())

    def _who(self) -> dict[Key, _Asked]:
        found = {}
        for pool, parts in self._parts.pools.items():
            if parts.config.health is not None:
                specs = self._specs.get(pool)
                if specs is None:
                    specs = self._specs[pool] = _specs_of(parts.config)
                for server in parts.pool.servers:
                    found[pool, server.name] = _Asked(server, parts.config, *specs)
        return found

    async def run(self, probes: Probes) -> None:
        """Ask whoever is due, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                for key, what in probes.due():
                    act = {"check": self._check, "join": self._join, "content": self._content}[what]
                    task = loop.create_task(act(probes, key))
                    self._running.add(task)
                    task.add_done_callback(self._ended)
                next_s = probes.next_s()
                wait_s = TICK_S_MAX if next_s is None else next_s - self._clock.monotonic_s()
                await asyncio.sleep(min(max(wait_s, TICK_S_MIN), TICK_S_MAX))
        finally:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a question to a server failed; this is a bug in fastroute", exc_info=task.exception())

    async def _ask(self, spec: CheckSpec, key: Key) -> Outcome | None:
        """None where the server has left."""
        async with self._room:
            asked = self.asked.get(key)
            if asked is None:
                return None
            outcome = await run_check(spec, asked.server.address, pool=key[0], server=key[1])
        return outcome if key in self.asked else None

    async def _check(self, probes: Probes, key: Key) -> None:
        asked = self.asked.get(key)
        outcome = await self._ask(asked.check, key) if asked is not None else None
        if asked is None or outcome is None:
            return
        health, content = asked.config.health, asked.config.content
        assert health is not None
        heavy = heaviness(outcome.seconds, outcome.size_bytes, health.timeout_s) if outcome.ok else None
        if heavy is not None and asked.heavy is None:
            log.warning("pool %s: the check of server %s is heavy: %s; it is asked more rarely", *key, heavy)
        asked.heavy = heavy
        known = probes.boot_of(key)
        boot = boot_of(outcome.fields, health.boot_header, health.uptime_header, known, self._clock.wall_s())
        probes.checked(
            key,
            outcome.ok,
            outcome.detail,
            outcome.seconds,
            heavy=heavy is not None,
            refused=outcome.refused,
            boot=boot,
        )
        if content is not None and content.header and outcome.ok:
            probes.fingerprinted(key, outcome.fields.get(content.header.lower(), "")[:128])
        self._note(key, outcome)
        self._tell()

    async def _join(self, probes: Probes, key: Key) -> None:
        asked = self.asked.get(key)
        if asked is None or asked.join is None:
            return
        outcome = await self._ask(asked.join, key)
        if outcome is None:
            return
        if not outcome.ok and not asked.hook_failed:
            log.warning("pool %s: the hook of server %s failed: %s", *key, outcome.detail)
        asked.hook_failed = not outcome.ok
        probes.joined(key, outcome.ok, outcome.detail)
        self._tell()

    async def _content(self, probes: Probes, key: Key) -> None:
        asked, pages = self.asked.get(key), []
        for spec in asked.pages if asked is not None else ():
            outcome = await self._ask(spec, key)
            if outcome is None or not outcome.status:
                probes.fingerprinted(key, "")
                return
            pages.append((spec.path, outcome.status, outcome.body))
        probes.fingerprinted(key, digest_of(pages))
        self._tell()


def _specs_of(of: PoolConfig) -> tuple[CheckSpec, CheckSpec | None, tuple[CheckSpec, ...]]:
    """How a pool's servers are asked: (check, hook, pages)."""
    health, join, content = of.health, of.on_join, of.content
    assert health is not None
    context = upstream_context(of.tls) if of.tls is not None else None
    begin = b"" if of.send_proxy == "off" else format_header(of.send_proxy, None, None)
    name = of.tls.server_name if of.tls is not None else ""
    check = CheckSpec(
        kind=health.check,
        path=health.path,
        method=health.method,
        host=health.host,
        expect=health.expect,
        body=health.body,
        port=health.port,
        command=health.command,
        timeout_s=health.timeout_s,
        tls=context if health.check in ("tls", "http") else None,
        tls_name=name,
        begin=begin,
    )
    hook = None
    if join is not None and join.command:
        hook = CheckSpec("command", command=join.command, timeout_s=join.timeout_s)
    elif join is not None:
        hook = _page(join.path, join.timeout_s, health.host, (200, 299), context, name, begin)
    pages = tuple(
        _page(path, content.timeout_s, health.host, (100, 599), context, name, begin)
        for path in (content.paths if content is not None else ())
        if content is not None
    )
    return check, hook, pages


def _page(
    path: str,
    timeout_s: float,
    host: str,
    expect: tuple[int, ...],
    tls: ssl.SSLContext | None,
    name: str,
    begin: bytes,
) -> CheckSpec:
    return CheckSpec(
        "http",
        path=path,
        method="GET",
        host=host,
        expect=expect,
        timeout_s=timeout_s,
        tls=tls,
        tls_name=name,
        begin=begin,
    )


def _plan_of(of: PoolConfig) -> Plan:
    """When they are asked."""
    health, join, content = of.health, of.on_join, of.content
    assert health is not None
    return Plan(
        interval_s=health.interval_s,
        fast_interval_s=health.fast_interval_s,
        rise=health.rise,
        fall=health.fall,
        shared=health.fleet,
        join=join is not None,
        join_interval_s=join.interval_s if join is not None else 0.0,
        content_interval_s=content.interval_s if content is not None and content.paths else 0.0,
    )
