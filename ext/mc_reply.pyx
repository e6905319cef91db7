"""mc_reply: what a request to memcached came to: the statuses, Reply, CasToken.

What it is not: it parses nothing and knows no connection (mc_queue does both); the blocking client makes the same objects.
Rules of this file
- "I do not know" (UNKNOWN) and "I did not ask" (DOWN) are results of their own, never a miss.
- A CAS number without the connection that read it is worth nothing, so the two never part.
"""
cimport cython
from libc.stdint cimport uint64_t

from fastroute.errors import UsageError

HIT = FR_MC_HIT
MISS = FR_MC_MISS
STORED = FR_MC_STORED
EXISTS = FR_MC_EXISTS
NOT_STORED = FR_MC_NOT_STORED
NOT_FOUND = FR_MC_NOT_FOUND
DELETED = FR_MC_DELETED
SERVER_ERROR = FR_MC_SERVER_ERROR
CLIENT_ERROR = FR_MC_CLIENT_ERROR
UNKNOWN = FR_MC_UNKNOWN
DOWN = FR_MC_DOWN
cdef tuple _STATUS_NAMES = ("hit", "miss", "stored", "exists", "not-stored", "not-found", "deleted", "server-error",
                            "client-error", "unknown", "down")


@cython.freelist(64)
@cython.no_gc
@cython.final
cdef class CasToken:
    """What a compare-and-set compares: the CAS number, bound to the connection that read it.

    memcached counts CAS from 1 again after a restart, so that a number read before it may name another value after it.
    A restart always breaks the connection; hence the binding.
    """

    def __init__(self):
        raise UsageError("a CasToken comes from Reply.token")

    def __repr__(self):
        return f"CasToken(cas={self.cas}, generation={self.generation})"


@cython.freelist(256)
@cython.no_gc
@cython.final
cdef class Reply:
    """The outcome of one request; never an exception.

    `status` is one of the module's constants. `known` is False for UNKNOWN and DOWN, which say nothing about the key.
    """

    def __init__(self):
        raise UsageError("a Reply comes from a request")

    @property
    def status_name(self):
        """The status as a word, for messages and metrics."""
        return _STATUS_NAMES[self.status]

    @property
    def hit(self):
        """True when the node had the key."""
        return self.status == FR_MC_HIT

    @property
    def known(self):
        """True when the node answered."""
        return self.status < FR_MC_UNKNOWN

    @property
    def token(self):
        """CasToken for compare-and-set and compare-and-delete, or None where the reply carries none."""
        cdef CasToken token
        if self.cas == 0:
            return None
        token = CasToken.__new__(CasToken)
        token.cas = self.cas
        token.generation = self.generation
        return token

    def __repr__(self):
        size = "" if self.value is None else f", {len(self.value)} bytes"
        flags = "".join(f", {name}" for name in ("won", "stale", "sent") if getattr(self, name))
        return f"Reply({self.status_name}{size}, cas={self.cas}, ttl_s={self.ttl_s}{flags})"


def make_reply(status, value=None, cas=0, generation=0, client_flags=0):
    """A Reply that did not come through a codec: of the blocking client, or of a test's stand-in."""
    cdef Reply reply = Reply.__new__(Reply)
    reply.status = status
    reply.ttl_s = -2
    reply.value = value
    reply.cas = cas
    reply.generation = generation
    reply.client_flags = client_flags
    return reply
