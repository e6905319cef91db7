"""mc_meta: memcached's meta protocol without sockets: the requests, each checked and written in one pass.

What it is: the encoder of requests, on top of the queue and decoder of their replies (mc_queue); results are
mc_reply's.
What it is not: it opens nothing and waits for nothing (fastroute/memcache/connection.py does), it knows one node only
(cluster.py knows which key lives where, by home_of), and it does not interpret values.

Rules of this file
- A key or value that the server would not take is refused before a byte is written: with an over-long key memcached
  runs the value as commands.
- A request is written into the queue's buffer between _admit(), which makes room, and _push(), which ends it.
Source: memcached 1.6 protocol.txt; behaviour of 1.6.18 where the text is silent.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint64_t
from fastroute._core.base cimport fr_now_ms
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.mc_queue cimport FR_ASK_ARITHMETIC, FR_ASK_DELETE, FR_ASK_GET, FR_ASK_NOOP, FR_ASK_STORE, FR_ASK_TOUCH, MetaQueue
from fastroute._core.mc_reply cimport FR_MC_DOWN, FR_MC_EXISTS, CasToken, Reply

from fastroute._core.mc_reply import make_reply
from fastroute.errors import UsageError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "fr_meta.h" nogil:
    enum: FR_META_KEY_BYTES_MAX
    enum: FR_META_TTL_S_MAX
    bint fr_meta_key_ok(const uint8_t *key, size_t size)
    uint8_t *fr_meta_put(uint8_t *p, const void *bytes, size_t size)
    uint8_t *fr_meta_put_number(uint8_t *p, uint64_t number)
    uint8_t *fr_meta_put_flag(uint8_t *p, char letter, uint64_t number)

cdef enum:
    HOMES_MAX_COUNT = 8

HOMES_MAX = HOMES_MAX_COUNT
"""Homes of one key that homes_of can name."""
KEY_BYTES_MAX = FR_META_KEY_BYTES_MAX
TTL_S_MAX = FR_META_TTL_S_MAX

cdef Reply _REPLY_DOWN = make_reply(FR_MC_DOWN)
cdef Reply _REPLY_FOREIGN_TOKEN = make_reply(FR_MC_EXISTS)


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


def homes_of(key, seeds, Py_ssize_t count):
    """Indices of the first `count` nodes in the key's order: highest score first, as home_of; fewer where there are fewer.

    Args:
        key, seeds: as for home_of.
        count: 1..HOMES_MAX.

    Raises:
        UsageError: another count.

    Notes: the order of the rest does not change when a node is added or leaves, so a key's second home is its first
    one when that node is gone. O(nodes * count).
    """
    cdef const uint8_t *at
    cdef size_t size
    cdef uint64_t score, seed
    cdef uint64_t scores[HOMES_MAX_COUNT]
    cdef uint64_t best[HOMES_MAX_COUNT]
    cdef int indices[HOMES_MAX_COUNT]
    cdef int held = 0, index = 0, place, i
    if not 1 <= count <= HOMES_MAX_COUNT:
        raise UsageError(f"count {count}: accepted are 1 to {HOMES_MAX_COUNT}")
    _bytes_of(key, &at, &size)
    for seed in <tuple>seeds:
        score = fr_xxh64(at, size, seed)
        place = held
        while place > 0 and (score > scores[place - 1] or (score == scores[place - 1] and seed < best[place - 1])):
            place -= 1
        if place < count:
            held = min(held + 1, <int>count)
            for i in range(held - 1, place, -1):
                scores[i], best[i], indices[i] = scores[i - 1], best[i - 1], indices[i - 1]
            scores[place], best[place], indices[place] = score, seed, index
        index += 1
    return tuple([indices[i] for i in range(held)])


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


cdef class MetaCodec(MetaQueue):
    """Requests to one node; arguments as for MetaQueue.

    Every request method returns what `new_waiter` made (a future): it gets a Reply, or a pair of them. Raises UsageError
    for a key, value or time to live outside the limits; then nothing was written. A request that is answered DOWN is
    answered at once, without a turn of the event loop: who tries again in a loop has to pause.
    """

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
        return self._push(FR_ASK_GET, False, None, True, key, fr_now_ms(&self._clock))

    def get_or_lease(self, key, lease_s, waiter=None):
        """Read a key; where there is none, leave an empty one for `lease_s` and win the lease.

        HIT with `won`: compute and store with the reply's token. HIT with `sent`: somebody else has won. An empty value
        with won or sent is the placeholder; classic readers take it for a value.

        Args:
            key: as for get.
            lease_s: how long the placeholder lives; a winner that dies blocks the others that long.
            waiter: what gets the reply in place of a future (done, set_result), and is returned. set_result is called as
                soon as the answer is read, without a turn of the loop, perhaps before this returns; it must not raise.
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
            self._next_waiter = waiter
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c f", 6)
        p = fr_meta_put_flag(p, b'N', ttl)
        p = fr_meta_put(p, " t", 2)
        self._out_size = p - self._out
        self._next_waiter = waiter
        return self._push(FR_ASK_GET, False, None, True, key, fr_now_ms(&self._clock))

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
        return self._push(FR_ASK_TOUCH, False, None, True, key, fr_now_ms(&self._clock))

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

    def add_then_get(self, key, value, ttl_s=0, client_flags=0, touch_s=None):
        """add and get in one write and one round trip: the second reply is what is stored, whoever stored it.

        Args:
            key, value, ttl_s, client_flags: as for set.
            touch_s: new time to live of what is stored then, in the same request; None leaves it.

        Returns: future of (reply of the add, reply of the get).
        """
        return self._store(key, value, ttl_s, client_flags, b'E', None, True, touch_s)

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
        return self._push(FR_ASK_DELETE, False, None, True, key, fr_now_ms(&self._clock))

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
        return self._push(FR_ASK_STORE, False, None, True, key, fr_now_ms(&self._clock))

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
        return self._push(FR_ASK_ARITHMETIC, False, None, True, key, fr_now_ms(&self._clock))

    def noop(self):
        """Ask for a sign of life: HIT."""
        cdef uint8_t *p
        if not self._admit(1, 0):
            return self._done(None, _REPLY_DOWN, False)
        p = fr_meta_put(self._out + self._out_size, "mn", 2)
        self._out_size = p - self._out
        return self._push(FR_ASK_NOOP, False, None, True, None, fr_now_ms(&self._clock))

    cdef object _store(self, object key, object value, object ttl_s, object client_flags, char mode, CasToken token,
                       bint then_get, object touch_s=None):
        cdef const uint8_t *at
        cdef const uint8_t *value_at
        cdef size_t size, value_size
        cdef int64_t ttl, flags, touch = -1
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
        if touch_s is not None:
            touch = _ttl(touch_s)
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
                return self._push(FR_ASK_STORE, False, None, True, key, now_ms)
            self._push(FR_ASK_STORE, True, None, False, key, now_ms)
        p = fr_meta_put(self._out + self._out_size, "mg ", 3)
        p = fr_meta_put(p, at, size)
        p = fr_meta_put(p, " v c t f", 8)
        if touch >= 0:
            p = fr_meta_put_flag(p, b'T', touch)
        self._out_size = p - self._out
        return self._push(FR_ASK_GET, False, first, True, key, now_ms)
