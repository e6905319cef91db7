"""The shared cache: for asyncio (SharedCache here) and for threads (fastroute.cache.sync)."""

from fastroute.cache.shared import SharedCache
from fastroute.cache.statistics import CacheStatistics

__all__ = ["CacheStatistics", "SharedCache"]
