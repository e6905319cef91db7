"""The access log of one process, up to the bytes that are ready to be written.

Not here: the form of a line (fr_log.h), files and the thread that writes (fastroute.proxy.access_log). Lines gather in one
buffer; a thread takes what is there a few times a second. What comes while the buffer is full is dropped and counted: a slow
disk costs lines, never requests.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastroute._core.http_wire cimport Engine, fr_out, fr_out_clear, fr_out_free

cdef extern from "<time.h>" nogil:
    ctypedef int64_t time_t
    struct tm:
        int tm_mday
    tm *gmtime_r(const time_t *clock, tm *result) noexcept
    size_t strftime(char *to, size_t size, const char *format, const tm *when) noexcept

cdef extern from "fr_log.h" nogil:
    void fr_log_combined(fr_out *out, const fr_log_record *one) noexcept
    void fr_log_json(fr_out *out, const fr_log_record *one) noexcept


cdef class AccessLog:
    """Lines that wait for being written.

    Args:
        engine: its counters count lines.
        json: one JSON object per line; else Apache's combined format.
        bytes_max: of lines that wait.
    """

    def __init__(self, Engine engine not None, *, json, bytes_max):
        self.engine, self.json, self.bytes_max = engine, json, bytes_max
        self.second = -1

    def __dealloc__(self):
        fr_out_free(&self.ready)

    cdef void put(self, fr_log_record *one) noexcept:
        cdef timespec now
        cdef tm when
        cdef size_t before = self.ready.size
        if before >= self.bytes_max:
            self.engine.counts.log_dropped += 1
            return
        clock_gettime(CLOCK_REALTIME, &now)
        if now.tv_sec != self.second:
            self.second = now.tv_sec
            gmtime_r(<const time_t *>&now.tv_sec, &when)
            strftime(self.stamp, sizeof(self.stamp), b"%Y-%m-%dT%H:%M:%S" if self.json else b"%d/%b/%Y:%H:%M:%S +0000", &when)
        one.stamp, one.stamp_ms = self.stamp, <unsigned>(now.tv_nsec // 1000000)
        if self.json:
            fr_log_json(&self.ready, one)
        else:
            fr_log_combined(&self.ready, one)
        if self.ready.failed:
            self.ready.failed, self.ready.size = 0, before
            self.engine.counts.log_dropped += 1
        else:
            self.engine.counts.log_lines += 1

    @property
    def size(self):
        """Bytes that wait."""
        return self.ready.size

    def take(self):
        """All lines that wait, as bytes; they wait no more."""
        lines = PyBytes_FromStringAndSize(<const char *>self.ready.data, self.ready.size)
        fr_out_clear(&self.ready)
        return lines

    def lost(self, int lines):
        """Lines that were taken could not be written."""
        self.engine.counts.log_lines -= lines
        self.engine.counts.log_dropped += lines
