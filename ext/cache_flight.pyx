"""cache_flight: the records of one get_or_compute of the shared cache: what is wanted, and the first question about it.

Not here: what is decided (fastroute/cache/core.py), who waits and how (driver.py, sync_driver.py). They are compiled since
one of each is made for every far hit, and a Python object of ten fields costs as much as the store's decoder.
"""
cimport cython
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


@cython.freelist(64)
@cython.final
cdef class Fill:
    """One get_or_compute: what is wanted, and what this process knew when it began.

    Attributes:
        name: of the key.
        compute: the caller's function.
        lifetime: how long what it returns is good for.
        tags: digests of the value's tags.
        ticket: the near cache's, for a value that is about to be read; -1 before.
        stamp: of the generations, as of the ticket.
    """

    cdef readonly object name, compute, lifetime
    cdef public tuple tags
    cdef public object ticket, stamp

    def __cinit__(self, name, compute, lifetime, tuple tags not None=()):
        self.name, self.compute, self.lifetime, self.tags = name, compute, lifetime, tags
        self.ticket = -1
        self.stamp = 0

    def again(self):
        """The same, not begun."""
        return Fill(self.name, self.compute, self.lifetime, self.tags)


cdef inline double _now_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


@cython.freelist(64)
@cython.final
cdef class Flight:
    """A read or computation that is under way on an event loop, who waits for it, and what it is about.

    It is what a request to the store gives its reply to (mc_queue), in place of a future and a turn of the loop.

    Args:
        answered: called with this and the reply, while it is being read; raises nothing.
        later: called with `answered`, this and the reply where the answer comes before the request was sent.
        fill: what is wanted.

    Attributes:
        waiters: futures.
        task: what carries out the steps after the first answer, if any.
        home, held: the node that is asked, its generation.
        context: of the caller.
        asking: set while the request is being made.
    """

    cdef object _answered, _later
    cdef double _began_s
    cdef readonly object fill, near_key
    cdef readonly list waiters
    cdef public object task, home, held, context
    cdef public bint asking

    def __cinit__(self, answered, later, Fill fill not None, near_key):
        self._answered, self._later, self.fill, self.near_key = answered, later, fill, near_key
        self.waiters = []
        self._began_s = _now_s()

    def took_s(self):
        """Seconds since it began."""
        return _now_s() - self._began_s

    def done(self):
        """It takes its answer, whoever has gone meanwhile."""
        return False

    def set_result(self, reply):
        """The answer."""
        if self.asking:
            self._later(self._answered, self, reply)
        else:
            self._answered(self, reply)
