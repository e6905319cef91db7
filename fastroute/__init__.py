"""fastroute: sticky routing and shared cache for fleets of stateless balancers.

Pool and Server        who can take a request, and the policy that picks
Router, Selection      one key, one server; what was decided and why
Affinity               what remembers decisions, so that several balancers agree
Zone, Memcached        where: shared memory of one machine, the store of a fleet
SharedCache            one cache for all processes
errors                 every error, by whose fault it is
"""

from fastroute import errors
from fastroute._core.pool import Pool
from fastroute._core.router import Router
from fastroute._core.selection import Selection
from fastroute._core.zone import Zone
from fastroute.affinity import Affinity
from fastroute.cache import SharedCache
from fastroute.memcache import Memcached
from fastroute.model import Server

__all__ = ["Affinity", "Memcached", "Pool", "Router", "Selection", "Server", "SharedCache", "Zone", "errors"]
__version__ = "0.1.0"
