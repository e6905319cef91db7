"""mc_queue: who waits for which reply of one memcached node, and the decoder that completes that queue.

What it is: the bytes to send, a first-in first-out queue of what was asked, and a decoder of replies in pieces of any size.
One round trip serves everything that was asked within a turn of the event loop.
What it is not: it writes no request but the greeting (mc_meta does), opens nothing and waits for nothing
(fastroute/memcache/connection.py does), and does not interpret values.

Rules of this file
- Replies carry no request number of ours but three characters (flag O) as a check: order alone decides. Whatever
  does not fit (an unasked line, another O, a value where none was asked, a number that is none) ends the connection:
  a reply that may belong to someone else must never be handed out.
- A caller that gave up keeps its place in the queue, so that replies never shift.
- Errors of the server: SERVER_ERROR to a store or increment is one reply and the connection stays in step. Any other
  error line may be followed by more of them, so it ends the connection.
Source: memcached 1.6 protocol.txt; behaviour of 1.6.18 where the text is silent.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from fastroute._core.base cimport fr_now_ms
from fastroute._core.mc_reply cimport FR_MC_DOWN, FR_MC_HIT, FR_MC_STORED, FR_MC_UNKNOWN, Reply

from fastroute._core.mc_reply import make_reply
from fastroute.errors import UsageError

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags)

cdef extern from "fr_meta.h" nogil:
    enum: FR_META_LINE_BYTES_MAX
    enum: FR_META_COMMAND_BYTES_MAX
    enum: FR_META_OPAQUE_BYTES
    enum: FR_META_VA
    enum: FR_META_SERVER_ERROR
    ctypedef struct fr_meta_line:
        uint64_t value_size
        uint64_t cas
        int64_t ttl_s
        uint32_t client_flags
        uint8_t code, won, stale, sent, key_size, opaque_size
        const uint8_t *key
        const uint8_t *opaque
    uint8_t *fr_meta_put(uint8_t *p, const void *bytes, size_t size)
    uint8_t *fr_meta_put_opaque(uint8_t *p, uint64_t sequence)
    const char *fr_meta_parse(const uint8_t *line, size_t size, uint64_t value_bytes_max, fr_meta_line *out)
    int fr_meta_status(unsigned ask, unsigned code)

cdef extern from "fr_meta_read.h" nogil:
    enum: FR_META_MORE
    enum: FR_META_LINE
    enum: FR_META_PIECE
    enum: FR_META_VALUE_END
    void fr_meta_reader_reset(fr_meta_reader *reader)
    void fr_meta_expect_value(fr_meta_reader *reader, uint64_t size)
    int fr_meta_read(fr_meta_reader *reader, const uint8_t **p, const uint8_t *end, const uint8_t **at, size_t *size)

# States of a codec. IDLE: nothing was asked yet. OPENING: the first connection, or the one after a connection that the
# other side ended, is being made; requests wait within their time limit. UP. AWAY: known to be away (refused, late, or
# not speaking the protocol), requests are answered DOWN. CLOSED: for good.
IDLE = 0
OPENING = 1
UP = 2
AWAY = 3
CLOSED = 4
cdef enum:
    ST_IDLE = 0
    ST_OPENING = 1
    ST_UP = 2
    ST_AWAY = 3
    ST_CLOSED = 4

# What is checked in replies beside their order.
CHECK_NOTHING = 0
CHECK_OPAQUE = 1
CHECK_KEY = 2
cdef enum:
    MARK_OPAQUE = 1
    MARK_KEY = 2

# What a new connection still owes: the answer to the credentials, and to the noop after them.
cdef enum:
    PROBE_NOOP = 1
    PROBE_CREDENTIALS = 2

LINE_BYTES_MAX = FR_META_LINE_BYTES_MAX
VALUE_BYTES_MAX = (1 << 20) - 512
"""memcached's default item limit (-I 1m) less header, longest key and chunk headers; a refused store DELETES the item."""
IN_FLIGHT_MAX = 4096
"""Requests waiting for one node; beyond it they are answered DOWN. At 100,000 requests/s that is 40 ms of them."""
QUEUED_BYTES_MAX = 16 << 20
"""Bytes not yet handed to the transport; beyond it requests are answered DOWN."""
TIMEOUT_MS = 50
"""A store of the same data centre answers in under 1 ms; design.md's default."""
ROUNDTRIP_BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Upper bounds of the buckets of roundtrips(); the last bucket has none. 0.05 is the default time limit."""
cdef uint64_t[9] _ROUNDTRIP_BOUNDS_US
for _index in range(9):
    _ROUNDTRIP_BOUNDS_US[_index] = <uint64_t>(ROUNDTRIP_BOUNDS_S[_index] * 1e6 + 0.5)

cdef enum:
    # Requests of one turn after which the first of them are sent at once: the server wakes and works while the rest is
    # still being asked. Measured with 32 tasks on one connection: 4.6 us per request without, 3.5 with 8; 4 and 2
    # cost more system calls than they hide waiting.
    BURST = 8

cdef inline uint64_t _now_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef uint64_t _generation_last = 0      # over all nodes of the process: no two connections share a generation
cdef Reply _REPLY_UNKNOWN = make_reply(FR_MC_UNKNOWN)
cdef Reply _REPLY_DOWN = make_reply(FR_MC_DOWN)


cdef class MetaQueue:
    """Queue and decoder of one node, over all its connections; its requests are MetaCodec's.

    Args:
        timeout_ms: how long a request may wait for its answer.
        value_bytes_max: longest value that is sent or taken.
        in_flight_max: requests waiting at a time.
        queued_bytes_max: bytes written but not taken.
        check: CHECK_OPAQUE, CHECK_KEY or CHECK_NOTHING.

    Notes: not thread-safe; belongs to one event loop.
    """

    def __cinit__(self, *, timeout_ms=50, value_bytes_max=1048064, in_flight_max=4096, queued_bytes_max=16777216,
                  check=1):
        cdef uint32_t capacity = 2
        if not 2 <= in_flight_max <= 1 << 17:
            raise UsageError(f"in_flight_max {in_flight_max}: accepted are 2 to 131072")
        while capacity < in_flight_max:
            capacity *= 2
        self._slots = <fr_mc_slot *>malloc(capacity * sizeof(fr_mc_slot))
        self._out_capacity = 4096
        self._out = <uint8_t *>malloc(self._out_capacity)
        if self._slots == NULL or self._out == NULL:
            raise MemoryError
        self._mask = capacity - 1
        self._in_flight_max = in_flight_max
        self._timeout_ms = timeout_ms
        self._value_bytes_max = value_bytes_max
        self._queued_bytes_max = queued_bytes_max
        self._check = check
        self.state = ST_IDLE

    def __dealloc__(self):
        cdef fr_mc_slot *slot
        while self._slots != NULL and self._head != self._tail:
            slot = &self._slots[self._head & self._mask]
            self._head += 1
            if slot.waiter != NULL:
                Py_DECREF(<object>slot.waiter)
            if slot.key != NULL:
                Py_DECREF(<object>slot.key)
            if slot.first != NULL:
                Py_DECREF(<object>slot.first)
        free(self._slots)
        free(self._out)

    # ------------------------------------------------------------------ for the connection

    def attach(self, new_waiter, notify, on_idle, on_up, on_failure):
        """Say who makes futures, and who is told.

        Args:
            new_waiter: makes a future (done, set_result).
            notify: called when there is something to take(), once until it is taken.
            on_idle: called at the first request, before it is written; is to call opening().
            on_up: called when a new connection has answered its probe.
            on_failure: called with the reason when the connection is to be closed.
        """
        self._new_waiter = new_waiter
        self._notify = notify
        self._on_idle = on_idle
        self._on_up = on_up
        self._on_failure = on_failure

    def set_clock_ms(self, uint64_t now_ms):
        """Hold the clock still at this time, for tests; 0 lets the machine's clock run."""
        self._clock.manual_ms = now_ms

    def opening(self):
        """The first connection is being made: from now on requests wait, within their time limit."""
        if self.state == ST_IDLE:
            self.state = ST_OPENING

    def hello(self, username=None, password=None):
        """Begin a new connection: what to send first. The codec is up when feed() has seen the answer.

        With credentials (memcached -Y) they go first, as the text command that memcached takes for it.

        Raises:
            UsageError: a blank or control in the credentials, or more than 1024 bytes of them.
        """
        cdef bytes secret
        self._drop_reading()
        self._epoch += 1
        self._probe = PROBE_NOOP
        if username is None:
            return b"mn\r\n"
        secret = f"{username} {password}".encode()
        if len(secret) > 1024 or secret.count(b" ") != 1 or min(secret) < 0x20 or 0x7F in secret:
            raise UsageError("credentials of the store: accepted are up to 1024 bytes without blanks and controls")
        self._probe = PROBE_CREDENTIALS
        return b"set fastroute 0 0 %d\r\n%b\r\nmn\r\n" % (len(secret), secret)

    def take(self):
        """The bytes to send; empty when there are none, or no connection. They count as sent from here on."""
        cdef bytes out
        if self.state != ST_UP:
            return b""
        self._notified = False
        if self._out_size == 0:
            return b""
        out = PyBytes_FromStringAndSize(<char *>self._out, <Py_ssize_t>self._out_size)
        self._sent()
        return out

    def send(self, int fd):
        """take(), written to a connected socket as far as it takes it now: the bytes that are left, mostly none.

        What is wrong with the socket is not said here: who reads it finds out.
        """
        cdef ssize_t n
        cdef bytes left = b""
        if self.state != ST_UP:
            return b""
        self._notified = False
        if self._out_size == 0:
            return b""
        with nogil:
            n = c_send(fd, self._out, self._out_size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            n = 0
        if <size_t>n < self._out_size:
            left = PyBytes_FromStringAndSize(<char *>self._out + n, <Py_ssize_t>self._out_size - n)
        self._sent()
        return left

    cdef int _sent(self) except -1:
        # What stands in the buffer is on its way.
        self.bytes_out += self._out_size
        if self._sample_us == 0:                # one round trip at a time is measured: the first request of a write
            self._sample = self._taken
            self._sample_us = _now_us()
        self._taken = self._tail
        self._alone = self._tail - self._head == 1
        self._out_size = 0
        if self._out_capacity > 1 << 18:        # a large value went through: do not keep its room for ever
            free(self._out)
            self._out_capacity = 4096
            self._out = <uint8_t *>malloc(self._out_capacity)
            if self._out == NULL:
                self._out_capacity = 0
        return 0

    def feed(self, data):
        """Take received bytes; complete what they answer. Never raises for what the server sent."""
        cdef const uint8_t *at
        cdef size_t size
        if self._probe == 0 and self.state != ST_UP:
            return                              # late bytes of a connection that was given up
        if not isinstance(data, bytes):
            raise UsageError(f"{type(data).__name__}: accepted are bytes")
        at = <const uint8_t *>PyBytes_AS_STRING(data)
        size = <size_t>PyBytes_GET_SIZE(data)
        self.bytes_in += size
        try:
            self._consume(at, at + size)
        except BaseException:
            # What is left of these bytes is lost with it: the next answer would be taken for another's.
            self._fatal("interrupted while an answer was read")
            raise

    def inlet(self):
        """feed() for the connection that hello() began: deaf as soon as there is a later one."""
        cdef Inlet inlet = Inlet.__new__(Inlet)
        inlet._codec = self
        inlet._epoch = self._epoch
        return inlet

    def away(self, reason):
        """The first connection takes longer than a request may wait: what waits is DOWN; the attempt goes on."""
        if self.state == ST_OPENING:
            self.state = ST_AWAY
            self.failure = reason
            self._drop()

    def fail(self, reason):
        """The connection ended (or could not be made): sent requests are UNKNOWN, the others DOWN."""
        self.failure = reason
        if self.state != ST_CLOSED:
            self.state = ST_AWAY
        self._drop_reading()
        self._drop()

    def reopen(self, reason):
        """The other side ended a connection that had worked: everything that waits is UNKNOWN, as it may have been sent;
        what is asked from now on waits for the next connection, within its time limit."""
        self.failure = reason
        if self.state == ST_UP:
            self._taken = self._tail
            self._drop_reading()
            self._new_generation()              # before anything is asked: tokens of the ended connection are void
            self.state = ST_OPENING
            self._drop()

    cdef void _new_generation(self) noexcept:
        global _generation_last
        _generation_last += 1
        self.generation = _generation_last

    def close(self):
        """The end: what waits is answered as by fail(), everything after it is DOWN."""
        self.state = ST_CLOSED
        self._drop_reading()
        self._drop()

    def overdue(self):
        """True when the oldest request has waited longer than the time limit."""
        if self._head == self._tail:
            return False
        return fr_now_ms(&self._clock) > self._slots[self._head & self._mask].at_ms + self._timeout_ms

    def expire(self):
        """The oldest request waited too long: give up the connection, so that its late answer is never read."""
        self.timeouts += 1
        self._fatal("no answer within the time limit")

    def roundtrips(self):
        """Measured round trips: (seconds in all, counts per bucket of ROUNDTRIP_BOUNDS_S and one above).

        One request per write is measured, from the write to its answer, and only while no other one is.
        """
        return self._roundtrip_sum_us / 1e6, tuple([self._roundtrips[i] for i in range(10)])

    @property
    def opening_first(self):
        """True while requests wait for a connection."""
        return self.state == ST_OPENING

    @property
    def up(self):
        """True while there is a connection that has answered its probe."""
        return self.state == ST_UP

    @property
    def in_flight(self):
        """Requests that wait for their answer."""
        return self._tail - self._head

    @property
    def queued_bytes(self):
        """Bytes written and not yet taken."""
        return self._out_size

    # ------------------------------------------------------------------ asking

    cdef object _waiter(self):
        # Who gets the answer: a future, or what the request was given for it.
        waiter = self._next_waiter
        if waiter is None:
            return self._new_waiter()
        self._next_waiter = None
        return waiter

    cdef object _done(self, Reply first, Reply reply, bint pair):
        # A future that is already done: the caller goes on without a turn of the loop.
        waiter = self._waiter()
        if reply.status == FR_MC_DOWN:
            self.down += 1
        waiter.set_result((first, reply) if pair else reply)
        return waiter

    cdef int _admit(self, int slots, size_t size) except -1:
        # 1: there is room for `slots` requests with `size` bytes of keys and values. 0: answer DOWN.
        cdef size_t capacity, needed
        cdef uint8_t *grown
        self.requests += slots
        if self.state == ST_IDLE and self._on_idle is not None:
            self._on_idle()
        if self.state != ST_UP and self.state != ST_OPENING:
            return 0
        needed = self._out_size + size + slots * <size_t>FR_META_COMMAND_BYTES_MAX
        if self._tail - self._head + slots > self._in_flight_max or \
                (self._out_size and needed > self._queued_bytes_max):
            self.busy += slots
            return 0
        if needed > self._out_capacity:
            capacity = max(needed, 2 * self._out_capacity)
            grown = <uint8_t *>realloc(self._out, capacity)
            if grown == NULL:
                raise MemoryError
            self._out, self._out_capacity = grown, capacity
        return 1

    cdef uint8_t *_put_check(self, uint8_t *p) noexcept:
        # The flag by which the reply of the request now written shows whose it is.
        if self._check == MARK_OPAQUE:
            p = fr_meta_put_opaque(fr_meta_put(p, " O", 2), self._tail)
        elif self._check == MARK_KEY:
            p = fr_meta_put(p, " k", 2)
        return p

    cdef object _push(self, int kind, bint pair_first, Reply first, bint waits, object key, uint64_t now_ms):
        # Ends the command that stands in the buffer and queues who waits for it.
        cdef fr_mc_slot *slot
        cdef uint8_t *p = self._out + self._out_size
        waiter = self._waiter() if waits else None
        slot = &self._slots[self._tail & self._mask]
        if kind != FR_ASK_STORE and kind != FR_ASK_NOOP:
            p = self._put_check(p)
        p = fr_meta_put(p, "\r\n", 2)
        self._out_size = p - self._out
        slot.waiter = slot.key = slot.first = NULL
        if waits:
            Py_INCREF(waiter)
            slot.waiter = <void *>waiter
        if first is not None:
            Py_INCREF(first)
            slot.first = <void *>first
        if self._check == MARK_KEY and key is not None:
            key = key if isinstance(key, bytes) else key.encode()
            Py_INCREF(key)
            slot.key = <void *>key
        slot.sequence = self._tail
        slot.at_ms = now_ms
        slot.kind = <uint8_t>kind
        slot.pair = pair_first
        self._tail += 1
        if not self._notified:
            self._notified = True
            if self._alone and waits and self._tail - self._head == 1 and self.state == ST_UP \
                    and self.on_burst is not None:
                self.on_burst()                 # as the one before, nothing is asked beside it: a turn would be for nothing
            else:
                self._notify()
        elif waits and self._tail - self._taken >= BURST and self.on_burst is not None:
            self.on_burst()
        return waiter

    cdef int _resolve(self, fr_mc_slot *slot, Reply reply) except -1:
        # Hands the reply to who waits; the caller of this has already taken the slot out of the queue.
        cdef object waiter, first
        cdef fr_mc_slot *after
        if slot.key != NULL:
            Py_DECREF(<object>slot.key)
            slot.key = NULL
        if slot.pair:
            after = &self._slots[self._head & self._mask]       # the second of the pair: always queued with the first
            Py_INCREF(reply)
            after.first = <void *>reply
            return 0
        first = None
        if slot.first != NULL:
            first = <object>slot.first
            Py_DECREF(first)
            slot.first = NULL
        waiter = <object>slot.waiter
        Py_DECREF(waiter)
        slot.waiter = NULL
        if waiter.done():
            return 0                            # given up by its caller
        try:
            waiter.set_result(reply if first is None else (first, reply))
        except RuntimeError:
            pass                                # its loop is closed: nobody waits any more
        return 0

    # ------------------------------------------------------------------ answers

    cdef void _drop_reading(self) noexcept:
        self._probe = 0
        self._sample_us = 0
        fr_meta_reader_reset(&self._reader)
        self._value = None
        self._reply = None

    cdef int _drop(self) except -1:
        # Answers everything that waits: UNKNOWN what was taken, DOWN what was not.
        cdef fr_mc_slot *slot
        cdef uint64_t end = self._tail
        self._out_size = 0
        self._notified = False
        while self._head < end:                 # who is answered may close the codec: then that call has gone on to the end
            slot = &self._slots[self._head & self._mask]
            self._head += 1
            if slot.sequence < self._taken:
                self.unknown += 1
                self._resolve(slot, _REPLY_UNKNOWN)
            else:
                self.down += 1
                self._resolve(slot, _REPLY_DOWN)
        return 0

    cdef int _fatal(self, str reason) except -1:
        self.fail(reason)
        if self._on_failure is not None:
            self._on_failure(reason)
        return 0

    cdef int _broken(self, str reason) except -1:
        # The server said something that is not the protocol.
        self.protocol_errors += 1
        return self._fatal(reason)

    cdef int _consume(self, const uint8_t *p, const uint8_t *end) except -1:
        cdef const uint8_t *at = NULL
        cdef size_t size = 0
        cdef int step
        while True:
            step = fr_meta_read(&self._reader, &p, end, &at, &size)
            if step == FR_META_LINE:
                self._line_read(at, size)
                if self._probe == 0 and self.state != ST_UP:
                    return 0                    # that line ended the connection
            elif step == FR_META_PIECE:
                memcpy(PyBytes_AS_STRING(self._value) + self._value_at, at, size)
                self._value_at += size
            elif step == FR_META_VALUE_END:
                self._reply.value = self._value
                self._value = None
                self._deliver()
                if self.state != ST_UP:
                    return 0                    # who got it has closed the codec
            elif step == FR_META_MORE:
                return 0
            else:
                return self._broken((<const char *>at).decode())

    cdef int _line_read(self, const uint8_t *line, size_t size) except -1:
        # One whole line: find out what it means for the oldest request.
        cdef fr_meta_line parsed
        cdef const char *wrong
        cdef fr_mc_slot *slot
        cdef uint8_t opaque[4]
        cdef int status
        cdef Reply reply
        if self._probe:
            return self._probe_line(line, size)
        if self._head >= self._taken:
            return self._broken(f"a line that nobody asked for: {_shown(line, size)}")
        slot = &self._slots[self._head & self._mask]
        wrong = fr_meta_parse(line, size, self._value_bytes_max, &parsed)
        if wrong != NULL:
            return self._broken(f"{wrong.decode()}: {_shown(line, size)}")
        status = fr_meta_status(slot.kind, parsed.code)
        if status < 0:
            return self._broken(f"not an answer to what was asked: {_shown(line, size)}")
        if parsed.code == FR_META_SERVER_ERROR:
            self.server_errors += 1
        if parsed.opaque_size:
            fr_meta_put_opaque(&opaque[0], slot.sequence)
            if self._check == MARK_OPAQUE and (parsed.opaque_size != FR_META_OPAQUE_BYTES
                                                 or memcmp(parsed.opaque, &opaque[0], FR_META_OPAQUE_BYTES)):
                return self._broken("the answer to another request")
        elif self._check == MARK_OPAQUE and (status == FR_MC_HIT or status == FR_MC_STORED) and slot.kind != FR_ASK_NOOP:
            return self._broken("an answer without the request's mark")
        if parsed.key_size and slot.key != NULL:
            if parsed.key_size != <size_t>PyBytes_GET_SIZE(<object>slot.key) or \
                    memcmp(parsed.key, PyBytes_AS_STRING(<object>slot.key), parsed.key_size):
                return self._broken("the answer to another key")
        reply = Reply.__new__(Reply)
        reply.status = status
        reply.cas = parsed.cas
        reply.generation = self.generation
        reply.ttl_s = parsed.ttl_s
        reply.client_flags = parsed.client_flags
        reply.won = parsed.won
        reply.stale = parsed.stale
        reply.sent = parsed.sent
        self._reply = reply
        if parsed.code != FR_META_VA:
            return self._deliver()
        self._value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>parsed.value_size)
        self._value_at = 0
        fr_meta_expect_value(&self._reader, parsed.value_size)
        return 0

    cdef int _probe_line(self, const uint8_t *line, size_t size) except -1:
        # A new connection: STORED for the credentials, then MN, then it counts as up.
        if self._probe == PROBE_CREDENTIALS:
            if size != 6 or memcmp(line, "STORED", 6):
                return self._broken(f"credentials refused: {_shown(line, size)}")
            self._probe = PROBE_NOOP
            return 0
        if size != 2 or memcmp(line, "MN", 2):
            return self._broken(f"not a memcached with meta commands (1.6 or newer): {_shown(line, size)}")
        self._probe = 0
        if self.state == ST_CLOSED:
            return 0
        self._new_generation()
        self.connections += 1
        self.failure = None
        self.state = ST_UP
        self._taken = self._head
        if self._on_up is not None:
            self._on_up()
        if self._out_size:
            self._notified = True
            self._notify()
        return 0

    cdef int _deliver(self) except -1:
        cdef fr_mc_slot *slot = &self._slots[self._head & self._mask]
        cdef Reply reply = self._reply
        cdef uint64_t took_us
        cdef int bucket = 0
        self._reply = None
        if self._sample_us and slot.sequence == self._sample:
            took_us = _now_us() - self._sample_us
            self._sample_us = 0
            self._roundtrip_sum_us += took_us
            while bucket < 9 and took_us > _ROUNDTRIP_BOUNDS_US[bucket]:
                bucket += 1
            self._roundtrips[bucket] += 1
        self._head += 1
        return self._resolve(slot, reply)


@cython.final
cdef class Inlet:
    """What a transport calls with received bytes; bound to one connection of a codec."""

    def __init__(self):
        raise UsageError("an Inlet comes from MetaCodec.inlet")

    def data_received(self, data):
        """Take received bytes, unless the connection they come from was replaced."""
        if self._epoch == self._codec._epoch:
            self._codec.feed(data)


cdef str _shown(const uint8_t *line, size_t size):
    # The start of a line, for a message.
    return repr(PyBytes_FromStringAndSize(<const char *>line, <Py_ssize_t>min(size, <size_t>60)))
