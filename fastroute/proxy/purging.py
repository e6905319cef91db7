"""Purges of the cache of responses: by URL, by tag, or all of a pool; for every replica at once, through the store.

Not here: who may ask (fastroute.admin). Rules of this file: each purge is one request per pool and node, whatever the
number of responses; nothing here serves clients, so nothing is kept near. Workers forget with the store's announcement,
within milliseconds, or after near_ttl at the latest.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

from fastroute._core.http_stored import Stored
from fastroute.cache.shared import SharedCache
from fastroute.config.schema import Config
from fastroute.errors import UsageError
from fastroute.http_cache.keys import url_key
from fastroute.http_cache.stored import EXTENSIONS, KEEP_MS_MAX, keep_ms, softened
from fastroute.http_cache.variants import Variants
from fastroute.proxy.build import cached_pools, make_cache_store
from fastroute.proxy.caching import namespace_of

__all__ = ["Purger"]

TRIES_MAX = 4
"""Of a soft purge whose response others keep changing."""


class Purger:
    """Purges one fleet's responses; opened with its first purge.

    Args:
        config: with the cache enabled.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._caches: dict[str, SharedCache] = {}

    async def _open(self) -> dict[str, SharedCache]:
        if not self._caches:
            config = self._config
            store = await self._stack.enter_async_context(make_cache_store(config, watch=False))
            for pool in cached_pools(config):
                cache = SharedCache(
                    store,
                    namespace=namespace_of(pool),
                    near_bytes=0,
                    copies=config.cache.copies,
                    fleet=config.fleet,
                    secret=[bytes(one) for one in config.secret] or None,
                    extensions=EXTENSIONS,
                    object_bytes_max=config.cache.max_object_bytes + (64 << 10),
                    watch=False,
                )
                self._caches[pool] = await self._stack.enter_async_context(cache)
        return self._caches

    async def aclose(self) -> None:
        """Close the connections."""
        await self._stack.aclose()
        self._caches = {}

    async def purge(
        self, *, url: str | None = None, tag: str | None = None, namespace: str | None = None, soft: bool = False
    ) -> dict[str, bool]:
        """Purge what is named by one of these; pool -> whether every node confirmed.

        Args:
            url: absolute; its responses to GET and HEAD, all variants.
            tag: a word of Surrogate-Key, Cache-Tag or Cache-Groups.
            namespace: a pool: all its responses.
            soft: responses become stale in place of being forgotten; with url only.

        Raises:
            UsageError: what is not accepted.
        """
        caches = await self._open()
        if namespace is not None:
            name = namespace.removeprefix("http:")
            if name not in caches:
                raise UsageError(f"no cached pool {namespace!r}: there are {', '.join(caches) or 'none'}")
            if soft:
                raise UsageError("soft: accepted with a url only")
            return {name: await caches[name].purge_namespace()}
        if tag is not None:
            if soft:
                raise UsageError("soft: accepted with a url only")
            return {pool: await cache.purge_tags(f"tag {tag}") for pool, cache in caches.items()}
        key = url_key(url or "")
        if key is None:
            raise UsageError(
                f"url {url!r}: accepted is an absolute http or https URL, such as http://a.example/path?query"
            )
        if soft:
            return {pool: await self._soften(cache, key) for pool, cache in caches.items()}
        return {pool: await cache.delete(key) for pool, cache in caches.items()}

    async def _soften(self, cache: SharedCache, key: str) -> bool:
        for _ in range(TRIES_MAX):
            value, version = await cache.get_version(key)
            if version is None:
                return False
            now_ms = round(time.time() * 1000)
            changed: Any
            if type(value) is Stored:
                changed = softened(value, now_ms)
                ttl_ms = keep_ms(changed, now_ms, round(self._config.cache.keep_s * 1000))
            elif type(value) is Variants:
                changed, ttl_ms = value._replace(soft_ms=now_ms), KEEP_MS_MAX
            else:
                return True
            if await cache.cas(key, changed, version, ttl=ttl_ms / 1000):
                return True
        return False
