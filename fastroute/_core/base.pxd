# base: declarations of ext/fr_base.h for the .pyx files; there is no base.pyx.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "fr_base.h" nogil:
    enum: FR_NO_SLOT
    enum: FR_READY
    enum: FR_DRAINING
    enum: FR_MAINTENANCE
    enum: FR_DOWN
    enum: FR_EJECTED
    enum: FR_ABSENT_SERVER
    ctypedef struct fr_clock:
        uint64_t manual_ms
    uint64_t fr_now_ms(const fr_clock *clock) noexcept
    uint32_t fr_now_tick(const fr_clock *clock) noexcept
    uint32_t fr_ticks_of_ms(uint64_t ms) noexcept
    uint64_t fr_mulhi64(uint64_t a, uint64_t b) noexcept
