"""mc_meta: memcached's meta protocol without sockets: requests into one buffer, replies to their callers in order.

What it is: an encoder that checks and writes a request in one pass, a first-in first-out queue of what was asked, and a
decoder that completes that queue. One round trip serves everything that was asked within a turn of the event loop.
What it is not: it opens nothing and waits for nothing (fastroute/memcache/connection.py does), it knows one node only
(cluster.py knows which key lives where), and it does not interpret values.

Rules of this file
- A key or value that the server would not take is refused before a byte is written: with an over-long key memcached
  runs the value as commands.
- Replies carry no request number of ours but three characters (flag O) as a check: order alone decides. Whatever
  does not fit (an unasked line, another O, a value where none was asked, a number that is none) ends the connection:
  a reply that may belong to someone else must never be handed out.
- A caller that gave up keeps its place in the queue, so that replies never shift.
- "I do not know" (UNKNOWN) and "I did not ask" (DOWN) are results of their own, never a miss.
- Errors of the server: SERVER_ERROR to a store or increment is one reply and the connection stays in step. Any other
  error line may be followed by more of them, so it ends the connection.
Source: memcached 1.6 protocol.txt; behaviour of 1.6.18 where the text is silent.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport ceil
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.base cimport fr_now_ms

from fastroute.errors import UsageError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "fr_meta.h" nogil:
    enum: FR_META_KEY_BYTES_MAX
    enum: FR_META_LINE_BYTES_MAX
    enum: FR_META_COMMAND_BYTES_MAX
    enum: FR_META_TTL_S_MAX
    enum: FR_META_OPAQUE_BYTES
    enum: FR_META_VA
    enum: FR_META_HD
    enum: FR_META_EN
    enum: FR_META_NS
    enum: FR_META_EX
    enum: FR_META_NF
    enum: FR_META_MN
    enum: FR_META_CLIENT_ERROR
    enum: FR_META_SERVER_ERROR
    enum: FR_META_STORED
    ctypedef struct fr_meta_line:
        uint64_t value_size
        uint64_t cas
        int64_t ttl_s
        uint32_t client_flags
        uint8_t code, won, stale, sent, key_size, opaque_size
        const uint8_t *key
        const uint8_t *opaque
    bint fr_meta_key_ok(const uint8_t *key, size_t size)
    uint8_t *fr_meta_put(uint8_t *p, const void *bytes, size_t size)
    uint8_t *fr_meta_put_number(uint8_t *p, uint64_t number)
    uint8_t *fr_meta_put_flag(uint8_t *p, char letter, uint64_t number)
    uint8_t *fr_meta_put_opaque(uint8_t *p, uint64_t sequence)
    const char *fr_meta_parse(const uint8_t *line, size_t size, uint64_t value_bytes_max, fr_meta_line *out)

HIT = FR_MC_HIT
MISS = FR_MC_MISS
STORED = FR_MC_STORED
EXISTS = FR_MC_EXISTS
NOT_STORED = FR_MC_NOT_STORED
NOT_FOUND = FR_MC_NOT_FOUND
DELETED = FR_MC_DELETED
SERVER_ERROR = FR_MC_SERVER_ERROR
CLIENT_ERROR = FR_MC_CLIENT_ERROR
UNKNOWN = FR_MC_UNKNOWN
DOWN = FR_MC_DOWN
cdef tuple _STATUS_NAMES = ("hit", "miss", "stored", "exists", "not-stored", "not-found", "deleted", "server-error",
                            "client-error", "unknown", "down")

# States of a codec. IDLE: nothing was asked yet. OPENING: the first connection is being made, requests wait within
# their time limit. UP. AWAY: known to be away, requests are answered DOWN. CLOSED: for good.
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

# What a request expects.
cdef enum:
    ASK_GET = 0
    ASK_TOUCH = 1
    ASK_STORE = 2
    ASK_DELETE = 3
    ASK_ARITHMETIC = 4
    ASK_NOOP = 5

# What the decoder reads.
cdef enum:
    READ_LINE = 0
    READ_VALUE = 1
    READ_VALUE_END = 2

# What a new connection still owes: the answer to the credentials, and to the noop after them.
cdef enum:
    PROBE_NOOP = 1
    PROBE_CREDENTIALS = 2

KEY_BYTES_MAX = FR_META_KEY_BYTES_MAX
LINE_BYTES_MAX = FR_META_LINE_BYTES_MAX
TTL_S_MAX = FR_META_TTL_S_MAX
VALUE_BYTES_MAX = (1 << 20) - 512
"""memcached's default item limit (-I 1m) less header, longest key and chunk headers; a refused store DELETES the item."""
IN_FLIGHT_MAX = 4096
"""Requests waiting for one node; beyond it they are answered DOWN. At 100,000 requests/s that is 40 ms of them."""
QUEUED_BYTES_MAX = 16 << 20
"""Bytes not yet handed to the transport; beyond it requests are answered DOWN."""
TIMEOUT_MS = 50
"""A store of the same data centre answers in under 1 ms; design.md's default."""

cdef uint64_t _generation_last = 0      # over all nodes of the process: no two connections share a generation


@cython.freelist(64)
@cython.no_gc
@cython.final
cdef class CasToken:
    """What a compare-and-set compares: the CAS number, bound to the connection that read it.

    memcached counts CAS from 1 again after a restart, so that a number read before it may name another value after it.
    A restart always breaks the connection; hence the binding.
    """

    def __init__(self):
        raise UsageError("a CasToken comes from Reply.token")

    def __repr__(self):
        return f"CasToken(cas={self.cas}, generation={self.generation})"


@cython.freelist(256)
@cython.no_gc
@cython.final
cdef class Reply:
    """The outcome of one request; never an exception.

    `status` is one of the module's constants. `known` is False for UNKNOWN and DOWN, which say nothing about the key.
    """

    def __init__(self):
        raise UsageError("a Reply comes from a request")

    @property
    def status_name(self):
        """The status as a word, for messages and metrics."""
        return _STATUS_NAMES[self.status]

    @property
    def hit(self):
        """True when the node had the key."""
        return self.status == FR_MC_HIT

    @property
    def known(self):
        """True when the node answered."""
        return self.status < FR_MC_UNKNOWN

    @property
    def token(self):
        """CasToken for compare-and-set and compare-and-delete, or None where the reply carries none."""
        cdef CasToken token
        if self.cas == 0:
            return None
        token = CasToken.__new__(CasToken)
        token.cas = self.cas
        token.generation = self.generation
        return token

    def __repr__(self):
        size = "" if self.value is None else f", {len(self.value)} bytes"
        flags = "".join(f", {name}" for name in ("won", "stale", "sent") if getattr(self, name))
        return f"Reply({self.status_name}{size}, cas={self.cas}, ttl_s={self.ttl_s}{flags})"


cdef inline Reply _new_reply(int status):
    cdef Reply reply = Reply.__new__(Reply)
    reply.status = status
    reply.ttl_s = -2
    return reply

def make_reply(status, value=None, cas=0, generation=0, client_flags=0):
    """A Reply that did not come through a codec: of the blocking client, or of a test's stand-in."""
    cdef Reply reply = _new_reply(status)
    reply.value = value
    reply.cas = cas
    reply.generation = generation
    reply.client_flags = client_flags
    return reply


cdef Reply _REPLY_UNKNOWN = _new_reply(FR_MC_UNKNOWN)
cdef Reply _REPLY_DOWN = _new_reply(FR_MC_DOWN)
cdef Reply _REPLY_FOREIGN_TOKEN = _new_reply(FR_MC_EXISTS)


cdef inline int _bytes_of(object text, const uint8_t **at, size_t *size) except -1:
    cdef Py_ssize_t length
    if type(text) is bytes:
        at[0] = <const uint8_t *>PyBytes_AS_STRING(text)
        size[0] = <size_t>PyBytes_GET_SIZE(text)
    elif isinstance(text, str):
        at[0] = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &length)
        size[0] = <size_t>length
    elif isinstance(text, bytes):
        at[0] = <const uint8_t *>PyBytes_AS_STRING(text)
        size[0] = <size_t>PyBytes_GET_SIZE(text)
    else:
        raise UsageError(f"{type(text).__name__}: accepted are str and bytes")
    return 0


cdef inline int _key(object key, const uint8_t **at, size_t *size) except -1:
    _bytes_of(key, at, size)
    if not fr_meta_key_ok(at[0], size[0]):
        raise UsageError(f"key {key!r:.80}: accepted are 1-{FR_META_KEY_BYTES_MAX} bytes without blanks and controls")
    return 0


cdef int64_t _ttl(object ttl_s) except -1:
    cdef double seconds
    if ttl_s is None:
        raise UsageError("ttl_s is None: accepted are seconds, 0 for no expiry")
    seconds = ceil(ttl_s)
    if not 0 <= seconds <= FR_META_TTL_S_MAX:
        raise UsageError(f"ttl_s {ttl_s!r}: accepted are 0 (no expiry) to {FR_META_TTL_S_MAX} seconds (30 days), relative")
    return <int64_t>seconds


def home_of(key, seeds):
    """Index of the node that a key lives on: rendezvous hashing, the highest XXH64(key, seed of the node).

    Args:
        key: str or bytes; a str is hashed as UTF-8, so that both forms of a key share a home.
        seeds: one 64-bit number per node, not empty: XXH64 of its name.

    Notes: O(nodes), about 10 ns each; of equal scores the lower seed wins, so that the order of the nodes does not matter.
    """
    cdef const uint8_t *at
    cdef size_t size
    cdef uint64_t best_score = 0, score, seed, best_seed = 0
    cdef int best = -1, index = 0
    _bytes_of(key, &at, &size)
    for seed in <tuple>seeds:
        score = fr_xxh64(at, size, seed)
        if best < 0 or score > best_score or (score == best_score and seed < best_seed):
            best, best_score, best_seed = index, score, seed
        index += 1
    return best


def seed_of(name):
    """XXH64 of a node's name, for home_of."""
    cdef const uint8_t *at
    cdef size_t size
    _bytes_of(name, &at, &size)
    return fr_xxh64(at, size, 0)


def check_key(key):
    """Refuse what cannot be a key, as every request does.

    Raises:
        UsageError: not 1..250 bytes (a str counts as UTF-8), or a blank or control among them.
    """
    cdef const uint8_t *at
    cdef size_t size
    _key(key, &at, &size)


cdef class MetaCodec:
    """Encoder, queue and decoder of one node, over all its connections.

    Args:
        timeout_ms: how long a request may wait for its answer.
        value_bytes_max: longest value that is sent or taken.
        in_flight_max: requests waiting at a time.
        queued_bytes_max: bytes written but not taken.
        check: CHECK_OPAQUE, CHECK_KEY or CHECK_NOTHING.

    Every request method returns what `new_waiter` made (a future): it gets a Reply, or a pair of them. Raises UsageError
    for a key, value or time to live outside the limits; then nothing was written. A request that is answered DOWN is
    answered at once, without a turn of the event loop: who tries again in a loop has to pause.

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
        self.bytes_out += self._out_size
        self._taken = self._tail
        self._out_size = 0
        if self._out_capacity > 1 << 18:        # a large value went through: do not keep its room for ever
            free(self._out)
            self._out_capacity = 4096
            self._out = <uint8_t *>malloc(self._out_capacity)
            if self._out == NULL:
                self._out_capacity = 0
        return out

    def feed(self, data):
        """Take received bytes; complete what they answer. Never raises for what the server sent."""
        cdef const uint8_t *at
        cdef size_t size
        if self._probe == 0 and self.state != ST_UP:
            return                              # late bytes of a connection that was given up
        _bytes_of(data, &at, &size)
        self.bytes_in += size
        self._consume(at, at + size)

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

    @property
    def opening_first(self):
        """True while requests wait for the first connection."""
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

    # ------------------------------------------------------------------ requests

    def get(self, key, touch_s=None):
        """Read a key: HIT with value, cas, client flags and the time to live left (before the touch), or MISS.

        Args:
            key: 1..250 bytes, no blank, no control; a str counts as UTF-8.
            touch_s: new time to live, in the same request; None leaves it.
        """
        cdef const uint8_t *at
        cdef size_t size
        cdef int64_t ttl = -1
        cdef uint8_t *p
        _key(key, &at, &size)
        if touch_s is not None:
            ttl = _ttl(touch_s)
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c t f", 8)
        if ttl >= 0:
            p = fr_meta_put_flag(p, b'T', ttl)
        self._out_size = p - self._out
        return self._push(ASK_GET, False, None, True, key, fr_now_ms(&self._clock))

    def get_or_lease(self, key, lease_s):
        """Read a key; where there is none, leave an empty one for `lease_s` and win the lease.

        HIT with `won`: compute and store with the reply's token. HIT with `sent`: somebody else has won. An empty value
        with won or sent is the placeholder; classic readers take it for a value.

        Args:
            key: as for get.
            lease_s: how long the placeholder lives; a winner that dies blocks the others that long.
        """
        cdef const uint8_t *at
        cdef size_t size
        cdef int64_t ttl
        cdef uint8_t *p
        _key(key, &at, &size)
        ttl = _ttl(lease_s)
        if ttl == 0:
            raise UsageError("lease_s 0: accepted are 1 second and more, or a dead winner would block the key for ever")
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c f", 6)
        p = fr_meta_put_flag(p, b'N', ttl)
        p = fr_meta_put(p, " t", 2)
        self._out_size = p - self._out
        return self._push(ASK_GET, False, None, True, key, fr_now_ms(&self._clock))

    def touch(self, key, ttl_s):
        """Set a key's time to live: HIT or MISS, no value."""
        cdef const uint8_t *at
        cdef size_t size
        cdef int64_t ttl
        cdef uint8_t *p
        _key(key, &at, &size)
        ttl = _ttl(ttl_s)
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put_flag(p, b'T', ttl)
        p = fr_meta_put(p, " c t", 4)
        self._out_size = p - self._out
        return self._push(ASK_TOUCH, False, None, True, key, fr_now_ms(&self._clock))

    def set(self, key, value, ttl_s=0, client_flags=0):
        """Store whatever was there: STORED with the new cas, or SERVER_ERROR (then the old value is gone too).

        Args:
            key: as for get.
            value: bytes, at most value_bytes_max.
            ttl_s: seconds until it expires, 0 for never, at most 30 days.
            client_flags: 32 bits that come back with the value.
        """
        return self._store(key, value, ttl_s, client_flags, b' ', None, False)

    def add(self, key, value, ttl_s=0, client_flags=0):
        """Store unless there is a value: STORED or NOT_STORED. Arguments as for set."""
        return self._store(key, value, ttl_s, client_flags, b'E', None, False)

    def cas_set(self, key, value, CasToken token not None, ttl_s=0, client_flags=0):
        """Store if the value is still the one that `token` came with: STORED, EXISTS or NOT_FOUND.

        A token of an earlier connection is not sent: EXISTS (see CasToken).
        """
        return self._store(key, value, ttl_s, client_flags, b'C', token, False)

    def add_then_get(self, key, value, ttl_s=0, client_flags=0):
        """add and get in one write and one round trip: the second reply is what is stored, whoever stored it.

        Returns: future of (reply of the add, reply of the get).
        """
        return self._store(key, value, ttl_s, client_flags, b'E', None, True)

    def cas_then_get(self, key, value, CasToken token not None, ttl_s=0, client_flags=0):
        """cas_set and get in one write and one round trip; with a token of an earlier connection the get alone.

        Returns: future of (reply of the cas_set, reply of the get).
        """
        return self._store(key, value, ttl_s, client_flags, b'C', token, True)

    def delete(self, key, CasToken token=None):
        """Delete: DELETED, NOT_FOUND, or with a token EXISTS when it is not the current one."""
        cdef const uint8_t *at
        cdef size_t size
        cdef uint8_t *p
        _key(key, &at, &size)
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        if token is not None and token.generation != self.generation:
            self.stale_tokens += 1
            return self._done(None, _REPLY_FOREIGN_TOKEN, False)
        p = fr_meta_put(self._out + self._out_size, "md ", 3)
        p = fr_meta_put(p, at, size)
        if token is not None:
            p = fr_meta_put_flag(p, b'C', token.cas)
        self._out_size = p - self._out
        return self._push(ASK_DELETE, False, None, True, key, fr_now_ms(&self._clock))

    def expire_key(self, key, CasToken token=None):
        """Delete so that watchers see it (`md` is not announced before memcached 1.6.20): an empty value, expired at once.

        STORED means gone; with a token EXISTS or NOT_FOUND as for cas_set. Without one a missing key is STORED too.
        """
        cdef const uint8_t *at
        cdef size_t size
        cdef uint8_t *p
        _key(key, &at, &size)
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        if token is not None and token.generation != self.generation:
            self.stale_tokens += 1
            return self._done(None, _REPLY_FOREIGN_TOKEN, False)
        p = fr_meta_put(self._out + self._out_size, "ms ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " 0 T-1", 6)
        if token is not None:
            p = fr_meta_put_flag(p, b'C', token.cas)
        p = fr_meta_put(self._put_check(p), "\r\n", 2)     # then the empty value, whose end _push() writes
        self._out_size = p - self._out
        return self._push(ASK_STORE, False, None, True, key, fr_now_ms(&self._clock))

    def increment(self, key, delta=1, initial=None, ttl_s=0):
        """Add to a decimal number of 64 bits, which wraps; a negative delta subtracts and stops at 0.

        Args:
            key: as for get.
            delta: -(2**64-1) .. 2**64-1.
            initial: the value where there is none (delta is not added to it); None answers NOT_FOUND instead.
            ttl_s: of a value made from `initial`.

        Returns: future of a HIT with the new number as digits, NOT_FOUND, or CLIENT_ERROR for a value that is no number.
        """
        cdef const uint8_t *at
        cdef size_t size
        cdef uint64_t step, start = 0
        cdef int64_t ttl = 0
        cdef uint8_t *p
        _key(key, &at, &size)
        if not (isinstance(delta, int) and -(1 << 64) < delta < 1 << 64):
            raise UsageError(f"delta {delta!r}: accepted are whole numbers of at most 64 bits")
        step = abs(delta)
        if initial is not None:
            if not (isinstance(initial, int) and 0 <= initial < 1 << 64):
                raise UsageError(f"initial {initial!r}: accepted are whole numbers of at most 64 bits, not negative")
            start = initial
            ttl = _ttl(ttl_s)
        if not self._admit(1, size):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "ma ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c", 4)
        p = fr_meta_put_flag(p, b'D', step)
        if delta < 0:
            p = fr_meta_put(p, " MD", 3)
        if initial is not None:
            p = fr_meta_put_flag(p, b'N', ttl)
            p = fr_meta_put_flag(p, b'J', start)
        self._out_size = p - self._out
        return self._push(ASK_ARITHMETIC, False, None, True, key, fr_now_ms(&self._clock))

    def noop(self):
        """Ask for a sign of life: HIT."""
        cdef uint8_t *p
        if not self._admit(1, 0):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mn", 2)
        self._out_size = p - self._out
        return self._push(ASK_NOOP, False, None, True, None, fr_now_ms(&self._clock))

    # ------------------------------------------------------------------ inside

    cdef object _store(self, object key, object value, object ttl_s, object client_flags, char mode, CasToken token,
                       bint then_get):
        cdef const uint8_t *at
        cdef const uint8_t *value_at
        cdef size_t size, value_size
        cdef int64_t ttl, flags
        cdef uint64_t now_ms
        cdef uint8_t *p
        cdef Reply first = None
        _key(key, &at, &size)
        if not isinstance(value, bytes):
            raise UsageError(f"value of type {type(value).__name__}: accepted are bytes")
        value_at = <const uint8_t *>PyBytes_AS_STRING(value)
        value_size = <size_t>PyBytes_GET_SIZE(value)
        if value_size > self._value_bytes_max:
            raise UsageError(f"value of {value_size} bytes: accepted are at most {self._value_bytes_max}")
        ttl = _ttl(ttl_s)
        if not 0 <= client_flags <= 0xFFFFFFFF:
            raise UsageError(f"client_flags {client_flags!r}: accepted are 32 bits, not negative")
        flags = client_flags
        if not self._admit(2 if then_get else 1, size + size + value_size):
            return self._done(_REPLY_DOWN, _REPLY_DOWN, then_get)
        now_ms = fr_now_ms(&self._clock)
        if token is not None and token.generation != self.generation:
            self.stale_tokens += 1
            first = _REPLY_FOREIGN_TOKEN
            if not then_get:
                return self._done(None, first, False)
        else:
            p = fr_meta_put(self._out + self._out_size, "ms ", 3)
            p = fr_meta_put(p, at, size)
            p[0] = b' '
            p = fr_meta_put_number(p + 1, value_size)
            if mode == b'E':
                p = fr_meta_put(p, " ME", 3)
            elif mode == b'C':
                p = fr_meta_put_flag(p, b'C', token.cas)
            p = fr_meta_put_flag(p, b'T', ttl)
            if flags:
                p = fr_meta_put_flag(p, b'F', flags)
            p = fr_meta_put(p, " c", 2)
            p = self._put_check(p)
            p = fr_meta_put(p, "\r\n", 2)
            p = fr_meta_put(p, value_at, value_size)
            self._out_size = p - self._out
            if not then_get:
                return self._push(ASK_STORE, False, None, True, key, now_ms)
            self._push(ASK_STORE, True, None, False, key, now_ms)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c t f", 8)
        self._out_size = p - self._out
        return self._push(ASK_GET, False, first, True, key, now_ms)

    cdef object _done(self, Reply first, Reply reply, bint pair):
        # A future that is already done: the caller goes on without a turn of the loop.
        waiter = self._new_waiter()
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
        waiter = self._new_waiter() if waits else None
        slot = &self._slots[self._tail & self._mask]
        if kind != ASK_STORE and kind != ASK_NOOP:
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
            self._notify()
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

    cdef void _drop_reading(self) noexcept:
        self._probe = 0
        self._reading = READ_LINE
        self._line_size = 0
        self._value = None
        self._reply = None

    cdef int _drop(self) except -1:
        # Answers everything that waits: UNKNOWN what was taken, DOWN what was not.
        cdef fr_mc_slot *slot
        cdef uint64_t end = self._tail
        self._out_size = 0
        self._notified = False
        while self._head != end:
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
        cdef const uint8_t *newline
        cdef size_t n
        while p < end:
            if self._reading == READ_LINE:
                newline = <const uint8_t *>memchr(p, 10, end - p)
                n = (end if newline == NULL else newline) - p
                if self._line_size + n > FR_META_LINE_BYTES_MAX - 2 and newline == NULL or \
                        self._line_size + n > FR_META_LINE_BYTES_MAX:
                    return self._broken("a line without an end")
                if newline == NULL:
                    memcpy(&self._line[self._line_size], p, n)
                    self._line_size += n
                    return 0
                if self._line_size:
                    memcpy(&self._line[self._line_size], p, n)
                    n += self._line_size
                    self._line_size = 0
                    p = newline + 1
                    if n == 0 or self._line[n - 1] != 13:
                        return self._broken("a line that ends without a carriage return")
                    self._line_read(&self._line[0], n - 1)
                else:
                    if n == 0 or p[n - 1] != 13:
                        return self._broken("a line that ends without a carriage return")
                    self._line_read(p, n - 1)
                    p = newline + 1
                if self._probe == 0 and self.state != ST_UP:
                    return 0                    # that line ended the connection
            elif self._reading == READ_VALUE:
                n = min(<size_t>(end - p), self._value_size - self._value_at)
                memcpy(PyBytes_AS_STRING(self._value) + self._value_at, p, n)
                self._value_at += n
                p += n
                if self._value_at == self._value_size:
                    self._reading = READ_VALUE_END
                    self._line_size = 0
            else:
                if p[0] != (13 if self._line_size == 0 else 10):
                    return self._broken("a value that does not end where its length says")
                p += 1
                self._line_size += 1
                if self._line_size == 2:
                    self._line_size = 0
                    self._reading = READ_LINE
                    self._reply.value = self._value
                    self._value = None
                    self._deliver()
        return 0

    cdef int _line_read(self, const uint8_t *line, size_t size) except -1:
        # One whole line: find out what it means for the oldest request.
        cdef fr_meta_line parsed
        cdef const char *wrong
        cdef fr_mc_slot *slot
        cdef uint8_t opaque[4]
        cdef int status = -1
        cdef Reply reply
        if self._probe:
            return self._probe_line(line, size)
        if self._head == self._taken:
            return self._broken(f"a line that nobody asked for: {_shown(line, size)}")
        slot = &self._slots[self._head & self._mask]
        wrong = fr_meta_parse(line, size, self._value_bytes_max, &parsed)
        if wrong != NULL:
            return self._broken(f"{wrong.decode()}: {_shown(line, size)}")
        if parsed.code == FR_META_VA:
            if slot.kind == ASK_GET or slot.kind == ASK_ARITHMETIC:
                status = FR_MC_HIT
        elif parsed.code == FR_META_HD:
            if slot.kind == ASK_STORE:
                status = FR_MC_STORED
            elif slot.kind == ASK_DELETE:
                status = FR_MC_DELETED
            elif slot.kind == ASK_TOUCH:
                status = FR_MC_HIT
        elif parsed.code == FR_META_EN:
            if slot.kind == ASK_GET or slot.kind == ASK_TOUCH:
                status = FR_MC_MISS
        elif parsed.code == FR_META_NS:
            if slot.kind == ASK_STORE or slot.kind == ASK_ARITHMETIC:
                status = FR_MC_NOT_STORED
        elif parsed.code == FR_META_EX:
            if slot.kind == ASK_STORE or slot.kind == ASK_DELETE or slot.kind == ASK_ARITHMETIC:
                status = FR_MC_EXISTS
        elif parsed.code == FR_META_NF:
            if slot.kind == ASK_STORE or slot.kind == ASK_DELETE or slot.kind == ASK_ARITHMETIC:
                status = FR_MC_NOT_FOUND
        elif parsed.code == FR_META_MN:
            if slot.kind == ASK_NOOP:
                status = FR_MC_HIT
        elif parsed.code == FR_META_SERVER_ERROR:
            if slot.kind == ASK_STORE or slot.kind == ASK_ARITHMETIC:
                status = FR_MC_SERVER_ERROR
                self.server_errors += 1
        elif parsed.code == FR_META_CLIENT_ERROR:
            if slot.kind == ASK_ARITHMETIC:
                status = FR_MC_CLIENT_ERROR
        if status < 0:
            return self._broken(f"not an answer to what was asked: {_shown(line, size)}")
        if parsed.opaque_size:
            fr_meta_put_opaque(&opaque[0], slot.sequence)
            if self._check == MARK_OPAQUE and (parsed.opaque_size != FR_META_OPAQUE_BYTES
                                                 or memcmp(parsed.opaque, &opaque[0], FR_META_OPAQUE_BYTES)):
                return self._broken("the answer to another request")
        elif self._check == MARK_OPAQUE and (status == FR_MC_HIT or status == FR_MC_STORED) and slot.kind != ASK_NOOP:
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
        self._value_size = parsed.value_size
        self._reading = READ_VALUE if parsed.value_size else READ_VALUE_END
        return 0

    cdef int _probe_line(self, const uint8_t *line, size_t size) except -1:
        # A new connection: STORED for the credentials, then MN, then it counts as up.
        global _generation_last
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
        _generation_last += 1
        self.generation = _generation_last
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
        self._reply = None
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
