# http_tunnel: a connection whose bytes go both ways as they are, and how that ends.
from libc.stdint cimport uint8_t
from fastroute._core.http_attempt cimport Attempt

cdef extern from "fr_frames.h" nogil:
    ctypedef struct fr_frames:
        uint8_t closed

cdef class Tunnel(Attempt):
    cdef bint websocket                 # its frames are counted
    cdef bint leaving                   # the client is to be told that this end goes away,
    cdef bint left_off                  # and was: no more of the server's frames reach it
    cdef fr_frames frames               # of the server

    # Send a Close frame in the server's place, at once or after its present frame. False: there is nobody to tell.
    cdef bint go_away(self) noexcept
    # How many of the server's bytes go on.
    cdef Py_ssize_t whole_frames(self, const uint8_t *data, Py_ssize_t size) noexcept
    # Both sides end, in good order.
    cdef void tunnel_ends(self) noexcept
    # Neither side sent for as long as is allowed, or the client takes nothing.
    cdef void tunnel_expired(self) noexcept
