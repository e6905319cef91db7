"""What the store says of a key, for explanations: one plain read that touches and writes nothing.

Not here: deciding (agreement, binding), the text (fastroute.routing.explain).
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastroute._core.pool import Pool
from fastroute.affinity.record import Record, server_id
from fastroute.memcache.client import DOWN, HIT, MISS
from fastroute.routing.explain import StoreAnswer

__all__ = ["answer_of", "look"]


async def look(store: Any, name: bytes, pool: Pool, timeout_s: float) -> StoreAnswer | None:
    """The store's answer; None when there is no store.

    Args:
        store: fastroute.Memcached, or None.
        name: the key's name in the store.
        pool: whose servers the record may name.
        timeout_s: waited for at most so long, then the answer is "unknown".
    """
    if store is None:
        return None

    async def ask() -> Any:  # the first home that can be reached decides
        for node in store.homes_of(name):
            reply = await node.get(name)
            if reply.status != DOWN:
                break
        return reply

    try:
        reply = await asyncio.wait_for(ask(), timeout_s)
    except TimeoutError:
        return StoreAnswer("unknown")
    return answer_of(reply.status, reply.value, pool)


def answer_of(status: int, value: bytes | None, pool: Pool) -> StoreAnswer:
    """What a reply of the home that decides says of a key of this pool."""
    if status != HIT:
        return StoreAnswer({MISS: "miss", DOWN: "down"}.get(status, "unknown"))
    record = Record.unpack(value)
    if record is None or record.released:
        return StoreAnswer("miss")
    server = next((one.name for one in pool.servers if server_id(one.name) == record.server), None)
    return StoreAnswer("hit", server, record.term, record.generation, record.writer, record.minute)
