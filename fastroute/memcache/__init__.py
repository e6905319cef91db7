"""The store: memcached, for asyncio (Memcached here) and for threads (fastroute.memcache.sync)."""

from fastroute.memcache.client import (
    CLIENT_ERROR,
    DELETED,
    DOWN,
    EXISTS,
    HIT,
    MISS,
    NOT_FOUND,
    NOT_STORED,
    SERVER_ERROR,
    STORED,
    UNKNOWN,
    CasToken,
    MemcacheNode,
    NodeStatistics,
    Reply,
)
from fastroute.memcache.cluster import Memcached

__all__ = [
    "CLIENT_ERROR",
    "DELETED",
    "DOWN",
    "EXISTS",
    "HIT",
    "MISS",
    "NOT_FOUND",
    "NOT_STORED",
    "SERVER_ERROR",
    "STORED",
    "UNKNOWN",
    "CasToken",
    "MemcacheNode",
    "Memcached",
    "NodeStatistics",
    "Reply",
]
