"""What a replica would answer, asked in the admin process: its pools, its zone and its store, without its traffic.

Not here: figures (fastroute.metrics.figures). The pools here carry no request; they are made from the same
configuration and follow the states and weights that the workers say, so that an explanation is the workers' own.
Zone and store are the workers': what is released here is released there.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from fastroute._core.affinity_table import Record
from fastroute._core.affinity_view import AffinityView, Binding
from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.token import TokenCodec
from fastroute._core.zone import Zone
from fastroute._core.zone_census import bindings_by_slot
from fastroute.affinity import Affinity
from fastroute.clock import SYSTEM
from fastroute.config.schema import Config
from fastroute.errors import UsageError
from fastroute.metrics.figures import Figures
from fastroute.proxy.build import make_affinity, make_pool, make_store, make_zone

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = ["Mirror"]

SCAN = 4096
"""Records read from the zone at a time."""

STORE_TIMEOUT_S = 0.5
"""How long the store may take to say what it knows: a person is waiting."""

CENSUS_S = 1.0
"""How old a count of the bindings may be: a walk over 64 MiB takes some 10 ms of this process."""


class Mirror:
    """Open with `async with`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.pools: dict[str, Pool] = {}
        self._routers: dict[str, Router] = {}
        self._affinities: dict[str, Affinity] = {}
        self._views: dict[str, AffinityView] = {}
        self._zone: Zone | None = None
        self.store: Memcached | None = None
        self._stack = AsyncExitStack()
        self._census: dict[int, int] = {}
        self._census_s = float("-inf")
        self._counting = asyncio.Lock()

    async def __aenter__(self) -> Mirror:
        config = self._config
        try:
            store = None
            if config.store is not None:
                store = self.store = make_store(config, watch=False)
                await self._stack.enter_async_context(store)
            if any(pool.sticky for pool in config.pools.values()):
                self._zone = make_zone(config)
                self._stack.callback(self._zone.close)
            for name, of in config.pools.items():
                pool = self.pools[name] = make_pool(config, name, of, self._zone)
                if of.sticky is not None:
                    # The workers listen to the store, and this process's store does not.
                    affinity = make_affinity(config, of.sticky, store, self._zone, SYSTEM, listens=False)
                    self._affinities[name] = await self._stack.enter_async_context(affinity)
                    self._views[name] = affinity.attach(pool)
                self._routers[name] = Router(pool, affinity=self._affinities.get(name))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def follow_members(self, config: Config) -> None:
        """Take in and let go servers, as the configuration says now."""
        if config is self._config:
            return
        for name, of in config.pools.items():
            if of.servers != self._config.pools[name].servers:
                self.pools[name].update(of.server_list())
                if (view := self._views.get(name)) is not None:
                    view.refresh()  # what the zone holds is told in the pool's slots
        self._config = config

    def bindings_of(self, pool: str, server: str) -> list[bytes]:
        """Fingerprints of the keys that the zone has bound to a server."""
        return [fingerprint for fingerprint, _ in self.records_of(pool, server)]

    def records_of(self, pool: str, server: str) -> list[tuple[bytes, Record]]:
        """(fingerprint, the zone's record) of the keys that are bound to a server."""
        affinity = self._affinities.get(pool)
        if affinity is None or self._zone is None:
            return []
        slot, tick, bucket = self._zone.server_slot(self._config.fleet, pool, server), self.zone_tick(), 0
        found: list[tuple[bytes, Record]] = []
        following: int | None = bucket
        while following is not None:
            some, following = affinity.table.scan(following, SCAN, tick, slot=slot)
            found += some
        return found

    @property
    def zone(self) -> Zone | None:
        """The machine's zone; None where no pool is sticky."""
        return self._zone

    def sticky_of(self, pool: str) -> tuple[Affinity, AffinityView] | None:
        """What holds a pool's bindings; None for one that is not sticky."""
        affinity, view = self._affinities.get(pool), self._views.get(pool)
        return (affinity, view) if affinity is not None and view is not None else None

    @staticmethod
    def zone_tick() -> int:
        """Now, as the zone counts."""
        return (time.clock_gettime_ns(getattr(time, "CLOCK_MONOTONIC_COARSE", time.CLOCK_MONOTONIC)) // 1_000_000) >> 6

    def other_slot(self, pool: str, server: str) -> int:
        """Slot of another server that takes new users, -1 for none."""
        of = self.pools[pool]
        return of.pick_other_slot(b"", [slot] if (slot := of.slot_of(server)) >= 0 else [])

    async def move_away(self, pool: str, fingerprint: bytes, server: str, *, to: int | None = None) -> bool:
        """Move a key that is bound to `server` to another one; False where it is not bound there (any more).

        Args:
            to: slot to move it to; None: whom the policy picks.

        Raises:
            MemcacheError: the store could not be asked.
        """
        affinity, view, of = self._affinities.get(pool), self._views.get(pool), self.pools[pool]
        if affinity is None or view is None:
            return False
        near = view.lookup(fingerprint)
        slot = self.other_slot(pool, server) if to is None else to
        if not isinstance(near, Binding) or slot < 0 or near.slot < 0 or near.slot != of.slot_of(server):
            return False
        return await affinity.move_to(view, fingerprint, slot, near)

    def follow(self, figures: Figures) -> None:
        """Take over what the workers say of states and weights."""
        for of in figures.pools:
            pool = self.pools[of.name]
            for server in of.servers:
                if server.states and pool.slot_of(server.name) >= 0:
                    if pool.state_of(server.name) != server.state:
                        pool.set_state(server.name, server.state)
                    pool.set_weight(server.name, server.weight)

    async def count_bindings(self, figures: Figures) -> None:
        """Write into the figures how many bindings each server and pool has."""
        if self._zone is None:
            for pool in figures.pools:
                pool.bindings = 0
            return
        loop = asyncio.get_running_loop()
        async with self._counting:  # whoever comes meanwhile takes the same count
            if loop.time() - self._census_s > CENSUS_S:
                self._census = await loop.run_in_executor(None, bindings_by_slot, self._zone)
                self._census_s = loop.time()
        for pool in figures.pools:
            sticky = self._config.pools[pool.name].sticky is not None
            pool.bindings = 0
            for server in pool.servers:
                slot = self._zone.server_slot(self._config.fleet, pool.name, server.name) if sticky else -1
                server.bindings = self._census.get(slot, 0)
                pool.bindings += server.bindings

    def key_of(self, pool: str, key: str) -> bytes:
        """The affinity key that a text names: the one inside the balancer's own cookie, where it is one.

        Raises:
            UsageError: a cookie that is refused.
        """
        sticky = self._config.pools[pool].sticky
        if sticky is None or sticky.on.kind != "insert" or not key.startswith("v1."):
            return key.encode("utf-8", "surrogateescape")
        secrets = [bytes(one) for one in self._config.secret]
        found = TokenCodec(secrets, self._config.fleet, f"affinity:{pool}").verify_text(key)
        if isinstance(found, str):
            raise UsageError(f"the cookie is refused ({found}): its bearer is a new user")
        return bytes(found[0])

    async def explain(self, pool: str, key: str) -> dict[str, Any]:
        """Where a key goes and why."""
        found = await self._routers[pool].explain_stored(self.key_of(pool, key) or None, STORE_TIMEOUT_S)
        told: dict[str, Any] = found.to_dict()
        return told

    async def binding(self, pool: str, key: str) -> dict[str, Any]:
        """What zone and store say of a key; {"bound": False} where neither knows it."""
        affinity, view = self._affinities.get(pool), self._views.get(pool)
        told: dict[str, Any] = {"pool": pool, "key": key, "bound": False, "server": None, "zone": None, "store": None}
        if affinity is None or view is None:
            return told
        raw = self.key_of(pool, key)
        near = view.lookup(view.fingerprint(raw))
        if isinstance(near, Binding):
            server = self.pools[pool].server_at(near.slot).name if near.slot >= 0 else None
            told["zone"] = {
                "server": server,
                "term": f"{near.term:#x}",
                "generation": near.generation,
                "once": near.once,
                "provisional": near.provisional,
                "age_ms": near.age_ms,
            }
            told["bound"], told["server"] = True, server
        said = await affinity.look(view, raw, STORE_TIMEOUT_S)
        if said is not None:
            told["store"] = {
                "status": said.status,
                "server": said.server,
                "term": f"{said.term:#x}",
                "generation": said.generation,
            }
            if said.status == "hit":
                told["bound"], told["server"] = True, said.server
        return told

    async def release(self, pool: str, key: str) -> str:
        """End a key's binding; "released", "absent" or "moved".

        Raises:
            MemcacheError: the store could not be asked.
        """
        return str(await self._routers[pool].release(self.key_of(pool, key)))
