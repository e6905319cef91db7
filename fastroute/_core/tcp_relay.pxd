# tcp_relay: listeners with protocol = "tcp": a client's bytes go to one server as they are, and back, until both ends are done.
cimport cython
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_tunnel cimport Tunnel

@cython.final
cdef class TcpRelay(Terms):
    cdef object rule                    # fastroute.routing.keys.KeyRule, or None: nothing sticks, nothing is hashed
    cdef object read_name               # Python: bytes -> server name of a ClientHello; None: nobody asks for it

@cython.final
cdef class TcpDownstream(Tunnel):
    cdef TcpRelay relay

    # The first bytes are enough, or none are needed: find the key and a server.
    cdef void _begin(self, object name) noexcept
    cdef void _open(self, object upstream) noexcept
    cdef void _look(self) noexcept
    # The connection has failed on one side: the other one must not take it for an end in good order.
    cdef void _break_off(self) noexcept
