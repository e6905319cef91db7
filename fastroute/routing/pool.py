"""Pool: a named set of servers with one policy. Compiled: ext/pool.pyx; this is where Python imports it from."""

from fastroute._core.pool import Pool, PoolRequest, PoolStatistics
from fastroute._core.selection import Selection
from fastroute._core.server_table import ServerStatistics

__all__ = ["Pool", "PoolRequest", "PoolStatistics", "Selection", "ServerStatistics"]
