"""The ring dialects by name (fastroute._core.dialects); this is where Python imports them from."""

from fastroute._core.dialects import DIALECTS, Dialect, build_ring, dialect, haproxy_ids

__all__ = ["DIALECTS", "Dialect", "build_ring", "dialect", "haproxy_ids"]
