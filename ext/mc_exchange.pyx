"""mc_exchange: one key read over a connected socket, for threads: asked, waited for and taken in one call.

What it is: the exchange of `mg` as a blocking cache makes it thousands of times a second: two system calls and the look
before them, the GIL given up once, the value copied once. In Python the same costs twice the time of the kernel.
What it is not: it makes, pools and closes no connection (pymemcache does), speaks no TLS and writes nothing but `mg`
(fastroute/memcache/sync.py does both).

Rules of this file
- The socket blocks, with its time limits set in the kernel (SO_RCVTIMEO, SO_SNDTIMEO): prepare() does it.
- Whatever is not exactly one answer to what was asked is an exception, and the connection is the caller's to close.
- Nothing is sent where something lies there to be read: it is the end of the connection, or belongs to nobody.
- An answer that comes in pieces has one time limit more for all of them, and one for each 64 KiB of its value: a server
  that drips keeps no thread.
Source: memcached 1.6 protocol.txt, "Meta Get"; recv(2), socket(7).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from fastroute._core.mc_reply cimport FR_MC_SERVER_ERROR, Reply

import fcntl
import os
import socket
import struct

from fastroute.errors import MemcacheProtocolError, UsageError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    int PyErr_CheckSignals() except -1

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_NOSIGNAL
    enum: SHUT_RDWR
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags)
    ssize_t c_recv "recv"(int fd, void *data, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)

cdef extern from "<poll.h>" nogil:
    enum: POLLIN
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *what, unsigned long count, int timeout_ms)

cdef extern from "fr_meta.h" nogil:
    enum: FR_ASK_GET
    enum: FR_META_KEY_BYTES_MAX
    enum: FR_META_LINE_BYTES_MAX
    enum: FR_META_SERVER_ERROR
    enum: FR_META_TTL_S_MAX
    enum: FR_META_VA
    ctypedef struct fr_meta_line:
        uint64_t value_size
        uint64_t cas
        int64_t ttl_s
        uint8_t code, won, stale, sent
    bint fr_meta_key_ok(const uint8_t *key, size_t size)
    uint8_t *fr_meta_put(uint8_t *p, const void *bytes, size_t size)
    uint8_t *fr_meta_put_flag(uint8_t *p, char letter, uint64_t number)
    const char *fr_meta_parse(const uint8_t *line, size_t size, uint64_t value_bytes_max, fr_meta_line *out)
    int fr_meta_status(unsigned ask, unsigned code)

cdef enum:
    # What is read at once: a line and a value of the usual kind. Of a longer value the rest goes where it stays.
    READ_BYTES = 8192
    PACE_SHIFT = 16                     # a time limit more for each 64 KiB: 1.3 MB/s with the default of 50 ms
    LATE = -2                           # beside -1, for errno: the time limit is over
    ENDED = 0


def prepare(connected, double timeout_s):
    """The descriptor of a connected plain socket for read_key, with its time limits given to the kernel.

    Args:
        connected: socket.socket; Python's own calls on it go on as before, with the same limit.
        timeout_s: of each wait; above 0.
    """
    cdef int fd = connected.fileno()
    # The kernel counts in its own ticks and takes zero for no limit.
    limit_us = max(1000, int(timeout_s * 1e6))
    limit = struct.pack("@ll", limit_us // 1_000_000, limit_us % 1_000_000)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    return fd


cdef inline uint64_t _now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef ssize_t _again(uint64_t *until_ms, uint64_t timeout_ms) except -3:
    # After a call that failed. 1: a signal came and its handler has run, try again; else LATE or -1 with errno.
    if errno == EAGAIN:
        return LATE
    if errno != EINTR:
        return -1
    PyErr_CheckSignals()
    if until_ms[0] == 0:
        until_ms[0] = _now_ms() + timeout_ms
    return 1 if _now_ms() < until_ms[0] else LATE


cdef int _fail(ssize_t outcome) except -1:
    if outcome == LATE:
        raise TimeoutError("no answer within the time limit")
    if outcome == ENDED:
        raise ConnectionResetError("closed before the reply was complete")
    raise OSError(errno, os.strerror(errno))


cdef ssize_t _receive(int fd, void *data, size_t size, uint64_t *until_ms, uint64_t timeout_ms) except -3:
    cdef ssize_t n
    while True:
        with nogil:
            n = c_recv(fd, data, size, 0)
        if n > 0:
            if until_ms[0] == 0:
                until_ms[0] = _now_ms() + timeout_ms
            elif _now_ms() > until_ms[0]:
                _fail(LATE)
            return n
        if n < 0:
            n = _again(until_ms, timeout_ms)
            if n == 1:
                continue
        _fail(n)


def read_key(int fd, key, double lease_s, uint64_t value_bytes_max, uint64_t incarnation, uint64_t timeout_ms):
    """Read a key; with a lease leave an empty value where there is none.

    Args:
        fd: of prepare().
        key: 1..250 bytes, no blank, no control; a str counts as UTF-8.
        lease_s: how long the placeholder lives, in whole seconds upwards, at most 30 days; 0 leaves none.
        value_bytes_max: longest value taken.
        incarnation: of the server's run, for the token.
        timeout_ms: the limit given to prepare(); neither signals nor pieces lengthen it without end.

    Returns:
        Reply: HIT (with a lease perhaps `won`), MISS or SERVER_ERROR. None: nothing was sent, since something lay there
        to be read, or the other side has ended the connection: make another one.

    Raises:
        UsageError: a key or lease that is not accepted; nothing was sent.
        OSError: TimeoutError and ConnectionResetError among them: sent, and no whole answer.
        MemcacheProtocolError: the answer is none.

    Notes: safe with threads, one at a time per descriptor. The GIL is released while it waits.
    """
    cdef uint8_t buffer[READ_BYTES]
    cdef uint8_t command[320]
    cdef const uint8_t *at
    cdef const uint8_t *newline
    cdef const char *wrong
    cdef uint8_t *p
    cdef Py_ssize_t size
    cdef size_t have = 0, body, whole
    cdef ssize_t n
    cdef int ready, status
    cdef uint64_t until_ms = 0
    cdef pollfd look
    cdef fr_meta_line parsed
    cdef Reply reply
    if isinstance(key, str):
        at = <const uint8_t *>PyUnicode_AsUTF8AndSize(key, &size)
    elif isinstance(key, bytes):
        at, size = <const uint8_t *>PyBytes_AS_STRING(key), len(key)
    else:
        raise UsageError(f"{type(key).__name__}: accepted are str and bytes")
    if not fr_meta_key_ok(at, <size_t>size):
        raise UsageError(f"key {key!r:.80}: accepted are 1-{FR_META_KEY_BYTES_MAX} bytes without blanks and controls")
    if not 0 <= lease_s <= FR_META_TTL_S_MAX:
        raise UsageError(f"lease_s {lease_s}: accepted are 0 (none) to {FR_META_TTL_S_MAX} seconds")
    p = fr_meta_put(&command[0], "mg ", 3)
    p = fr_meta_put(p, at, <size_t>size)
    p = fr_meta_put(p, " v c", 4)
    if lease_s > 0:
        p = fr_meta_put_flag(p, b'N', <uint64_t>ceil(lease_s))
    p = fr_meta_put(p, "\r\n", 2)
    look.fd, look.events, look.revents = fd, POLLIN, 0
    size = p - &command[0]
    with nogil:
        ready = c_poll(&look, 1, 0)
        n = 0
        if ready == 0:
            # At most 280 bytes into an idle connection's buffer: whole, or not at all.
            n = c_send(fd, &command[0], <size_t>size, MSG_NOSIGNAL)
            if n == size:
                n = c_recv(fd, &buffer[0], READ_BYTES, 0)
                if n > 0:
                    have = <size_t>n
            elif n >= 0:
                n = LATE
            else:
                ready = -2
    if ready == -2:
        # Not sent: the caller's next connection may be better; interrupted or full is as bad as ended for this one.
        if errno == EINTR:
            PyErr_CheckSignals()
        return None
    if ready != 0:
        return None
    if have == 0:
        if n < 0 and n != LATE:
            n = _again(&until_ms, timeout_ms)
        if n != 1:
            _fail(n)
        have = <size_t>_receive(fd, &buffer[0], READ_BYTES, &until_ms, timeout_ms)
    while True:
        newline = <const uint8_t *>memchr(&buffer[0], c'\n', have)
        if newline != NULL:
            break
        if have >= FR_META_LINE_BYTES_MAX:
            raise MemcacheProtocolError("a line without an end: " + _shown(&buffer[0], have))
        have += <size_t>_receive(fd, &buffer[have], READ_BYTES - have, &until_ms, timeout_ms)
    body = <size_t>(newline - &buffer[0]) + 1
    if body < 2 or body > FR_META_LINE_BYTES_MAX or buffer[body - 2] != c'\r':
        raise MemcacheProtocolError("not a line: " + _shown(&buffer[0], body))
    wrong = fr_meta_parse(&buffer[0], body - 2, value_bytes_max, &parsed)
    if wrong != NULL:
        raise MemcacheProtocolError(f"{wrong.decode()}: {_shown(&buffer[0], body)}")
    status = FR_MC_SERVER_ERROR if parsed.code == FR_META_SERVER_ERROR else fr_meta_status(FR_ASK_GET, parsed.code)
    if status < 0:
        raise MemcacheProtocolError("not an answer to what was asked: " + _shown(&buffer[0], body))
    reply = Reply.__new__(Reply)
    reply.status = status
    reply.ttl_s = -2
    reply.cas = parsed.cas
    reply.generation = incarnation
    reply.won = parsed.won
    reply.stale = parsed.stale
    reply.sent = parsed.sent
    if parsed.code == FR_META_VA:
        have -= body
        whole = <size_t>parsed.value_size + 2
        if have >= whole:
            if buffer[body + whole - 2] != c'\r' or buffer[body + whole - 1] != c'\n':
                raise MemcacheProtocolError("a value that does not end where its length says")
            reply.value = PyBytes_FromStringAndSize(<const char *>&buffer[body], <Py_ssize_t>whole - 2)
            have -= whole
        else:
            reply.value = _rest(fd, &buffer[body], have, whole, &until_ms, timeout_ms)
            have = 0
    else:
        have -= body
    if have:
        c_shutdown(fd, SHUT_RDWR)       # more than was asked for: whose it is, nobody knows; found at the next look
    return reply


cdef bytes _rest(int fd, const uint8_t *begun, size_t have, size_t whole, uint64_t *until_ms, uint64_t timeout_ms):
    # A value of which the beginning was read, read to its line end, which is then looked at apart.
    cdef bytes value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>whole - 2)
    cdef char *into = PyBytes_AS_STRING(value)
    cdef uint8_t ending[2]
    cdef size_t size = whole - 2, begun_of_end = 0
    if have > size:
        begun_of_end = 1
        ending[0] = begun[size]
        have = size
    memcpy(into, begun, have)
    if until_ms[0] == 0:
        until_ms[0] = _now_ms() + timeout_ms
    until_ms[0] += timeout_ms * ((size - have) >> PACE_SHIFT)
    while have < size:
        have += <size_t>_receive(fd, into + have, size - have, until_ms, timeout_ms)
    while begun_of_end < 2:
        begun_of_end += <size_t>_receive(fd, &ending[begun_of_end], 2 - begun_of_end, until_ms, timeout_ms)
    if ending[0] != c'\r' or ending[1] != c'\n':
        raise MemcacheProtocolError("a value that does not end where its length says")
    return value


cdef str _shown(const uint8_t *line, size_t size):
    # The start of a line, for a message.
    return repr(PyBytes_FromStringAndSize(<const char *>line, <Py_ssize_t>min(size, <size_t>60)))
