"""The same names as `fastroute`, blocking, for threads and WSGI applications; the store is spoken to with pymemcache.

from fastroute.sync import Affinity, Memcached, Pool, Router, Server, SharedCache
"""

from fastroute import errors
from fastroute._core.pool import Pool
from fastroute._core.selection import Selection
from fastroute._core.zone import Zone
from fastroute.affinity.blocking import Affinity, Router
from fastroute.cache.sync import SharedCache
from fastroute.memcache.sync import Memcached
from fastroute.model import Server

__all__ = ["Affinity", "Memcached", "Pool", "Router", "Selection", "Server", "SharedCache", "Zone", "errors"]
