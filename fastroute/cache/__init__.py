"""The shared cache: for asyncio (SharedCache here) and for threads (fastroute.cache.sync)."""

from fastroute.cache.reading import Version, Versioned
from fastroute.cache.shared import SharedCache
from fastroute.cache.statistics import CacheStatistics
from fastroute.cache.values import Extension

__all__ = ["CacheStatistics", "Extension", "SharedCache", "Version", "Versioned"]
