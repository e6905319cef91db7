"""selection: what routing one request gives: the server, why, and where to go next.

Not here: how it was decided (pool, router). Rules: made by `make_selection` alone, a few stores and no other work; the
fallbacks are computed when somebody asks for them.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

FALLBACKS_MAX = 3
"""Fallbacks a selection offers: as many as a cell of the `table` ring lists; more attempts than that help nobody."""


@cython.freelist(64)
cdef class Selection:
    """Result of routing one request. Immutable.

    Attributes:
        server: the Server to use.
        reason: "affinity-near", "affinity-store", "affinity-cookie", "policy", "moved", "fallback-hash" or "panic".
        term: names the binding's claim; 0 where nothing is bound.
        generation: decisions since the claim.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("a Selection is made by Pool.request() and by Router")

    @property
    def fallbacks(self):
        """Other servers that could take the request now, distinct, best first: at most FALLBACKS_MAX."""
        cdef tuple found = self.pool.candidates(self.key, FALLBACKS_MAX + 1)
        name = self.server.name
        return tuple([server for server in found if server.name != name][:FALLBACKS_MAX])

    def __repr__(self):
        bound = f", term={self.term:#x}, generation={self.generation}" if self.term else ""
        return f"<{type(self).__name__} {self.server.name!r} by {self.reason}{bound}>"


cdef Selection make_selection(object pool, object server, int slot, object reason, object key,
                              uint64_t term, uint32_t generation):
    cdef Selection made = Selection.__new__(Selection)
    made.pool, made.server, made.slot, made.reason, made.key = pool, server, slot, reason, key
    made.term, made.generation = term, generation
    return made
