# script_wire: the loop and the transports below a relay that scripts drive: nothing turns and nothing arrives by itself.
from libc.stdint cimport uint8_t, uint32_t
from fastroute._core.http_wire cimport fr_out

cdef extern from "script_judge.h":
    ctypedef struct script_peer:
        fr_out outbox
        size_t given, heard, piece
        fr_out written
        size_t unsent, high, asked_at
        bint slow, stopped, reading, closing, aborted, lost, ended, eof
    const char *script_judge(script_peer *clients, int client_count, script_peer *servers, int server_count, int went_away)
    void script_mark(uint32_t number, uint8_t *to)
    int script_said_count(int server)
    size_t script_said_at(int server, int number)

cdef class Loop:
    cdef readonly object clock
    cdef list soon, later
    cdef public list errors             # of what was raised into it, and findings
    # Run what was asked for, once; False: nothing was.
    cdef bint turn(self) except -1
    # Time has passed: who waited for it is due.
    cdef int passed(self) except -1

cdef class Transport:
    cdef script_peer *p
    cdef Loop loop
    cdef object protocol, peername
    # A fresh connection of this peer's.
    cdef void open(self, script_peer *p, Loop loop, bint slow) noexcept
    # The next piece of what it says arrives; False: there is none, or nobody hears it.
    cdef bint give(self) except -1
    # It says no more.
    cdef int give_eof(self) except -1
    # It reads; False: there was nothing.
    cdef bint take(self, size_t size) except -1
    # It is gone.
    cdef int reset(self) except -1
    cdef bint hears(self) noexcept
