"""Rings by name: any hash-to-slot structure that `policy = "hash"` can use.

`table` is the default and, whatever a pool's own ring, the fallback of every policy while the store is away. The
others are fastroute.routing.dialects: the same server as the named product, bit for bit.
"""

from fastroute._core.pool_arguments import RINGS

DEFAULT = "table"

__all__ = ["DEFAULT", "RINGS"]
