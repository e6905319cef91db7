"""Rings by name: any hash-to-slot structure that `policy = "hash"` can use.

`table` is the default and the fallback of every policy while the store is away. The planned ones are the other
products' dialects: the same server as the named product, bit for bit. A planned name is refused, saying so.
"""

from fastroute._core.pool_arguments import RINGS, RINGS_PLANNED

DEFAULT = "table"

__all__ = ["DEFAULT", "RINGS", "RINGS_PLANNED"]
