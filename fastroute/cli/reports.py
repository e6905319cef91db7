"""`fastroute explain` and `fastroute preview`: configuration, zone and store in, text or JSON out. They change nothing.

Not here: the reasoning (fastroute.routing.explain, fastroute.routing.preview). A replica's states and counters live in
its processes: here every server is ready, as the file has it; the admin interface explains with what the replica knows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.token import TokenCodec
from fastroute._core.zone import Zone
from fastroute.affinity import Affinity
from fastroute.cli.routes import moved_routes
from fastroute.cli.zone_copy import zone_copy
from fastroute.config.load import load
from fastroute.config.schema import Config, PoolConfig
from fastroute.errors import UsageError
from fastroute.routing.explain import Explanation
from fastroute.routing.preview import Preview, preview

__all__ = ["run_explain", "run_preview"]

STORE_TIMEOUT_S = 0.5
"""How long the store may take to say what it knows; a person is waiting, and one answer is enough."""


def run_explain(path: str, pool_name: str, key: str, as_json: bool) -> str:
    """What `fastroute explain` prints.

    Raises:
        ConfigError: the file. UsageError: no such pool.
    """
    config = load(path).config
    of = _pool_config(config, pool_name, path)
    raw, notes = _key_of(config, pool_name, of, key)
    with zone_copy(config) as (zone, said):
        found = asyncio.run(_explained(config, pool_name, of, raw, zone))
    if of.sticky is not None:
        notes.insert(0, said)
    notes.append("states are those of the file; a running replica's admin interface explains with its own")
    found = dataclasses.replace(found, notes=(*found.notes, *notes))
    return json.dumps(found.to_dict()) if as_json else str(found)


def run_preview(path: str, new_path: str, as_json: bool) -> str:
    """What `fastroute preview` prints: one preview per pool that stands in both files.

    Raises:
        ConfigError: one of the files.
    """
    config, new = load(path).config, load(new_path).config
    both = [name for name in config.pools if name in new.pools]
    added, removed = _without(new.pools, config.pools), _without(config.pools, new.pools)
    with zone_copy(config) as (zone, said):
        previews = [_previewed(config, name, config.pools[name], new.pools[name], zone) for name in both]
    routes = moved_routes(config, new)
    if as_json:
        found = {"pools": [one.to_dict() for one in previews], "added": added, "removed": removed, "zone": said}
        return json.dumps({**found, "routes": routes})
    parts = [str(one) for one in previews]
    parts += [f"pool {name}: would be new" for name in added]
    parts += [f"pool {name}: would go, with all its bindings" for name in removed]
    return "\n\n".join([*parts, *(["\n".join(routes)] if routes else []), said])


def _without(these: dict[str, PoolConfig], those: dict[str, PoolConfig]) -> list[str]:
    return [name for name in these if name not in those]


def _pool_config(config: Config, name: str, path: str) -> PoolConfig:
    if name not in config.pools:
        raise UsageError(f"--pool {name}: {path} has no pool of this name; it has: {', '.join(config.pools)}")
    return config.pools[name]


def _pool(config: Config, name: str, of: PoolConfig, zone: Zone | None) -> Pool:
    return Pool(
        name,
        of.server_list(),
        policy=of.policy,
        ring=of.ring,
        slots=of.slots,
        max_load=of.max_load or None,
        zone=zone,
        fleet=config.fleet,
    )


def _affinity(config: Config, of: PoolConfig, zone: Zone | None, store: Any) -> Affinity:
    assert of.sticky is not None
    return Affinity(
        store,
        ttl=of.sticky.ttl_s,
        identity_secret=config.identity_secret,
        fleet=config.fleet,
        zone=zone,
        near_ttl=config.store.near_ttl_s if config.store else "2s",
    )


def _key_of(config: Config, pool: str, of: PoolConfig, key: str) -> tuple[bytes, list[str]]:
    """The key as the router has it: the one inside the balancer's own cookie, where that is what was given."""
    if of.sticky is None or of.sticky.on.kind != "insert" or not key.startswith("v1."):
        return key.encode(), []
    found = TokenCodec([bytes(one) for one in config.secret], config.fleet, f"affinity:{pool}").verify_text(key)
    if isinstance(found, str):
        return b"", [f"the cookie is refused ({found}): its bearer is a new user"]
    return found[0], ["the key is the one inside the signed cookie"]


async def _explained(config: Config, name: str, of: PoolConfig, key: bytes, zone: Zone | None) -> Explanation:
    pool = _pool(config, name, of, zone)
    if of.sticky is None:
        return Router(pool).explain(key)
    if config.store is None:
        async with _affinity(config, of, zone, None) as affinity:
            return Router(pool, affinity=affinity).explain(key)
    from fastroute.memcache.cluster import Memcached  # only a fleet with a store needs it

    store = Memcached(
        list(config.store.memcached),
        copies=config.store.copies,
        timeout=config.store.timeout_s,
        watch=False,
        previous_nodes=config.store.previous_memcached,
    )
    async with store, _affinity(config, of, zone, store) as affinity:
        return await Router(pool, affinity=affinity).explain_stored(key, STORE_TIMEOUT_S)


def _previewed(config: Config, name: str, of: PoolConfig, new: PoolConfig, zone: Zone | None) -> Preview:
    pool = _pool(config, name, of, zone)
    bindings = None
    if of.sticky is not None and zone is not None:
        bindings = _affinity(config, of, zone, None).attach(pool)
    found = preview(pool, new.server_list(), bindings=bindings)
    differing = [what for what in ("policy", "ring", "slots", "max_load") if getattr(of, what) != getattr(new, what)]
    if differing:
        note = f"{', '.join(differing)} would change too: that places keys anew, and this preview leaves it out"
        found = dataclasses.replace(found, notes=(*found.notes, note))
    return found
