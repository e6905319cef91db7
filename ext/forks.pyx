"""forks: how often this process was forked off, at the price of reading a number.

Why compiled: Python's own hooks (os.register_at_fork) are not called where a server forks its workers in C, as uWSGI does
by default, and asking for the process's number is a system call each time. The C library's hook is called for every
fork(); vfork() and posix_spawn(), which end in another program, do not need it.
Not here: what is made anew then (fastroute/memcache/forks.py).
Source: pthread_atfork(3).
"""
cimport cython

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)(), void (*parent)(), void (*child)())

cdef unsigned long _count = 0


cdef void _forked() noexcept nogil:
    # In the child, before anything else of it runs; it may hold no lock and call nothing.
    global _count
    _count += 1


if pthread_atfork(NULL, NULL, &_forked):
    raise MemoryError


@cython.final
cdef class Forks:
    """The only one is `forks`."""

    @property
    def count(self):
        """Forks that lie between this process and the one that imported this module."""
        return _count


forks = Forks()
