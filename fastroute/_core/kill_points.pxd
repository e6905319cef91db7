# kill_points: for tests: this process kills or stops itself at a chosen store to a zone (ext/fr_shm.h); no kill_points.pyx.
# Each extension counts its own stores, so each that writes to a zone offers these two under names of its own.
from libc.signal cimport SIGKILL
from libc.stdint cimport uint64_t

cdef extern from "<signal.h>" nogil:
    enum: SIGSTOP

cdef extern from "fr_shm.h" nogil:
    ctypedef struct fr_kill_points:
        int on
        int signal
        uint64_t passed
        uint64_t at
    fr_kill_points fr_kill

# Act at the n-th store from now; 0 only counts. action: "kill" (SIGKILL), "stop" (SIGSTOP), "off": count no more.
cdef inline int kill_point_arm(uint64_t n, str action) except -1:
    fr_kill.signal = {"kill": SIGKILL, "stop": SIGSTOP, "off": 0}[action]
    fr_kill.on = action != "off"
    fr_kill.passed = 0
    fr_kill.at = n
    return 0

# Stores of this extension's write paths since then.
cdef inline uint64_t kill_point_count() noexcept:
    return fr_kill.passed
