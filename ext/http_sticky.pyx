"""Where a request's affinity key stands, and the cookies that carry it back.

Not here: what a key is bound to (router, affinity), when a request may move (http_attempt).
Rules of this file: nothing waits; a value that is too long, or a cookie that does not verify, is no key, and is counted.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastroute._core.http_head cimport FR_FIELD_SET_COOKIE, FR_FIELD_X_FORWARDED_FOR, fr_cookie_value, fr_field, fr_head
from fastroute._core.http_wire cimport Engine, fr_out, fr_out_put, fr_out_text
from fastroute._core.router cimport Router
from fastroute._core.token cimport FR_TOKEN_OK, TokenCodec

from fastroute.errors import InternalError

cdef extern from "fr_forward.h" nogil:
    bint fr_sets_cookie(const uint8_t *data, const fr_field *field, const uint8_t *name, size_t name_size, size_t *at, size_t *size) noexcept
    long fr_find_field(const uint8_t *data, const fr_head *head, const char *name, size_t name_size, size_t *value_at) noexcept

# Longest affinity key; fastroute.routing.keys has the same.
KEY_BYTES_MAX = 4096
cdef Py_ssize_t _KEY_BYTES_MAX = KEY_BYTES_MAX


cdef class Sticky:
    """One listener's rule for keys and cookies.

    Args:
        engine: its clock stamps cookies, its counters count what is refused.
        kind: "", "insert", "cookie", "header" or "client-ip"; `name` is the cookie's or field's name.
        codec: TokenCodec, with "insert".
        ttl_s: idle lifetime of a binding; the cookie is renewed when a quarter has passed.
        cookie_attributes: what follows the value in Set-Cookie, starting with ";".
    """

    def __init__(self, Engine engine, *, kind="", name="", TokenCodec codec=None, ttl_s=0, cookie_attributes=""):
        self.engine, self.codec = engine, codec
        self.kind = {"": FR_KEY_NONE, "insert": FR_KEY_INSERT, "cookie": FR_KEY_COOKIE, "header": FR_KEY_HEADER,
                     "client-ip": FR_KEY_CLIENT_IP}[kind]
        self.name = (name.lower() if kind == "header" else name).encode("ascii")
        if (self.kind == FR_KEY_INSERT) != (codec is not None):
            raise InternalError("a codec goes with insert, and only with it")
        self.ttl_minutes = max(1, <uint32_t>((ttl_s + 59) // 60))
        self.set_cookie = (cookie_attributes + "\r\n").encode("ascii")

    cdef const uint8_t *own_cookie(self, size_t *size) noexcept:
        if self.kind != FR_KEY_INSERT:
            size[0] = 0
            return NULL
        size[0] = PyBytes_GET_SIZE(self.name)
        return <const uint8_t *>PyBytes_AS_STRING(self.name)

    cdef Py_ssize_t find(self, const uint8_t *data, const fr_head *head, bytes peer, bint trusted, fr_binding *binding, const uint8_t **key) noexcept:
        cdef Py_ssize_t size = 0
        cdef size_t at = 0
        cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(self.name)
        cdef size_t name_size = PyBytes_GET_SIZE(self.name)
        if self.kind == FR_KEY_INSERT:
            size = fr_cookie_value(data, head, name, name_size, &at)
            if size > 0 and self._verify(data + at, size, binding):
                key[0] = binding.token.key
                return sizeof(binding.token.key)
            return 0
        if self.kind == FR_KEY_COOKIE:
            size = fr_cookie_value(data, head, name, name_size, &at)
            key[0] = data + at
        elif self.kind == FR_KEY_HEADER:
            size = fr_find_field(data, head, <const char *>name, name_size, &at)
            key[0] = data + at
        elif self.kind == FR_KEY_CLIENT_IP:
            key[0], size = <const uint8_t *>PyBytes_AS_STRING(peer), PyBytes_GET_SIZE(peer)
            if trusted:
                _forwarded_client(data, head, key, &size)
        return size if 0 < size <= _KEY_BYTES_MAX else 0

    cdef bint _verify(self, const uint8_t *text, Py_ssize_t size, fr_binding *binding) noexcept:
        """Is this a cookie of ours that still counts? Then it is the binding's token."""
        cdef int verdict = self.codec.verify(text, size, &binding.token)
        cdef uint32_t age
        if verdict != FR_TOKEN_OK:
            self.engine.counts.cookie_rejected[verdict if verdict < 5 else 1] += 1
            return False
        # A clock behind the issuer's makes no cookie old; one far behind it makes the cookie void.
        age = self.engine.minute - binding.token.issued_minute if self.engine.minute > binding.token.issued_minute else 0
        if (age > self.ttl_minutes + (self.ttl_minutes + 3) // 4
                or binding.token.issued_minute > self.engine.minute + self.ttl_minutes):
            self.engine.counts.cookie_rejected[5] += 1
            return False
        # Issued up to a quarter before its user's last request: past ttl the binding may live, the hint not.
        binding.has_token = True
        binding.hint = age <= self.ttl_minutes
        return True

    cdef void invent(self, fr_binding *binding) noexcept:
        binding.fresh_token = True
        self.engine.random(binding.token.key, sizeof(binding.token.key))
        binding.token.term = 0
        while binding.token.term == 0:
            self.engine.random(<uint8_t *>&binding.token.term, sizeof(binding.token.term))
        binding.token.generation = 1

    cdef void put_cookie(self, fr_out *out, fr_binding *binding, uint64_t digest) noexcept:
        cdef uint8_t text[160]
        cdef Py_ssize_t size
        cdef uint32_t age
        if binding.fresh_token:
            pass
        elif not binding.bound:
            return
        elif binding.term != binding.token.term or binding.generation != binding.token.generation:
            binding.token.term, binding.token.generation = binding.term, binding.generation
        else:
            age = self.engine.minute - binding.token.issued_minute if self.engine.minute > binding.token.issued_minute else 0
            if age * 4 < self.ttl_minutes:
                return
        binding.token.server_digest = digest
        binding.token.issued_minute = self.engine.minute
        size = self.codec.sign(&binding.token, text)
        fr_out_text(out, b"Set-Cookie: ")
        fr_out_put(out, PyBytes_AS_STRING(self.name), PyBytes_GET_SIZE(self.name))
        fr_out_text(out, b"=")
        fr_out_put(out, text, size)
        fr_out_put(out, PyBytes_AS_STRING(self.set_cookie), PyBytes_GET_SIZE(self.set_cookie))
        self.engine.counts.cookies_set += 1

    cdef int learn(self, Router router, const uint8_t *data, const fr_head *head, bytes key, int slot) except -1:
        """A server that gives a client a session has it: remember that before the session is first shown to us."""
        cdef unsigned int i
        cdef size_t at = 0, size = 0
        for i in range(head.field_count):
            if head.fields[i].id != FR_FIELD_SET_COOKIE:
                continue
            if not fr_sets_cookie(data, &head.fields[i], <const uint8_t *>PyBytes_AS_STRING(self.name),
                                  PyBytes_GET_SIZE(self.name), &at, &size):
                continue
            if size == 0 or <Py_ssize_t>size > _KEY_BYTES_MAX:
                continue
            if (key is not None and <size_t>PyBytes_GET_SIZE(key) == size
                    and memcmp(PyBytes_AS_STRING(key), data + at, size) == 0):
                continue
            router.learn(PyBytes_FromStringAndSize(<const char *>data + at, size), slot)
        return 0


cdef void _forwarded_client(const uint8_t *data, const fr_head *head, const uint8_t **key, Py_ssize_t *size) noexcept:
    """The address that a trusted peer says it speaks for: the last one it or its like added."""
    cdef unsigned int i
    cdef Py_ssize_t start, end, stop
    for i in range(head.field_count, 0, -1):
        if head.fields[i - 1].id == FR_FIELD_X_FORWARDED_FOR:
            start = head.fields[i - 1].value_at
            end = start + head.fields[i - 1].value_size
            stop = end
            while stop > start and data[stop - 1] != c",":
                stop -= 1
            while stop < end and (data[stop] == c" " or data[stop] == c"\t"):
                stop += 1
            if stop < end:
                key[0], size[0] = data + stop, end - stop
            return
