"""Where a request's affinity key stands, and the cookies that carry it back.

Not here: the places one by one (fr_request_key.h, fr_json_key.h), what a key is bound to (router, affinity), when a request may move (http_attempt).
Rules of this file: nothing waits; a value that is too long, or a cookie that does not verify, is no key, and is counted.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastroute._core.hashes cimport fr_fingerprint, fr_siphash128
from fastroute._core.http_head cimport (
    FR_BODY_CHUNKED, FR_BODY_LENGTH, FR_FIELD_SET_COOKIE, fr_cookie_value, fr_field, fr_head
)
from fastroute._core.http_sights cimport Sights
from fastroute._core.http_wire cimport Engine, fr_out, fr_out_clear, fr_out_put, fr_out_text
from fastroute._core.router cimport Router
from fastroute._core.token cimport FR_TOKEN_OK, TokenCodec

from fastroute.errors import InternalError

cdef extern from "fr_forward.h" nogil:
    bint fr_sets_cookie(const uint8_t *data, const fr_field *field, const uint8_t *name, size_t name_size, size_t *at, size_t *size) noexcept

cdef extern from "fr_set_cookie.h" nogil:
    bint fr_ends_cookie(const uint8_t *value, size_t size, int64_t now_s) noexcept

cdef extern from "fr_request_key.h" nogil:
    ctypedef struct fr_span:
        const uint8_t *data
        size_t size
    bint fr_key_by_rule(const fr_key_rule *rule, const uint8_t *data, const fr_head *head, fr_span client, char *room, fr_span *found) noexcept
    bint fr_has_json(const uint8_t *data, const fr_head *head) noexcept

cdef extern from "fr_out.h" nogil:
    int fr_out_room(fr_out *out, size_t more) noexcept

cdef extern from "fr_json_key.h" nogil:
    size_t fr_json_key(const uint8_t *data, size_t size, const uint8_t *name, size_t name_size, uint8_t *to, size_t room) noexcept

# Rules in a list; fastroute.routing.keys has the same.
RULES_MAX = 8
# How much of a body may be waited for, for the sake of its key (contracts, sticky.on).
JSON_BYTES_MAX = 64 << 10
cdef uint64_t _JSON_BYTES_MAX = JSON_BYTES_MAX

KINDS = {"": FR_FROM_NONE, "insert": FR_FROM_INSERT, "cookie": FR_FROM_COOKIE, "header": FR_FROM_HEADER,
         "client-ip": FR_FROM_CLIENT_IP, "query": FR_FROM_QUERY, "path-param": FR_FROM_PATH_PARAM, "path": FR_FROM_PATH,
         "url": FR_FROM_URL, "json": FR_FROM_JSON}


def json_key(body, name):
    """The key that a JSON object's member holds (ext/fr_json_key.h), or None.

    Args:
        body: bytes, the whole text; more than JSON_BYTES_MAX has no key.
        name: bytes of the member's name.
    """
    cdef uint8_t room[FR_KEY_BYTES_MAX]
    cdef const unsigned char[::1] text = body, wanted = name
    cdef size_t size
    if text.shape[0] == 0 or <uint64_t>text.shape[0] > _JSON_BYTES_MAX or wanted.shape[0] == 0:
        return None
    size = fr_json_key(&text[0], text.shape[0], &wanted[0], wanted.shape[0], room, FR_KEY_BYTES_MAX)
    return PyBytes_FromStringAndSize(<const char *>room, size) if size else None


cdef class Sticky:
    """One listener's rule for keys and cookies.

    Args:
        engine: its clock stamps cookies, its counters count what is refused.
        rules: (kind, name) each, tried in order: fastroute.routing.keys, or "insert" with the cookie's name, alone.
        codec: TokenCodec, with "insert"; beside a "cookie": its server's hint goes out in a cookie of our own.
        hint_name: name of that cookie.
        term_random_bits: of a term; above them stands when it began, in seconds.
        mark_key: 16 secret bytes, the same on all replicas: what ties a hint to the application's cookie.
        ttl_s: idle lifetime of a binding; the cookie is renewed when a quarter has passed.
        cookie_attributes: what follows the value in Set-Cookie, starting with ";".
    """

    def __init__(self, Engine engine, *, rules=(), TokenCodec codec=None, hint_name="", bytes mark_key=bytes(16),
                 int term_random_bits=32, ttl_s=0, cookie_attributes=""):
        cdef fr_key_rule *rule
        self.engine, self.codec = engine, codec
        if len(rules) > RULES_MAX:
            raise InternalError("more key rules than a list may have")
        self._names = tuple((name.lower() if kind == "header" else name).encode() for kind, name in rules)
        for i, (kind, name) in enumerate(rules):
            rule = &self.rules[i]
            rule.kind = KINDS[kind]
            rule.name, rule.name_size = <const uint8_t *>PyBytes_AS_STRING(self._names[i]), PyBytes_GET_SIZE(self._names[i])
            if rule.kind == FR_FROM_CLIENT_IP and name:
                rule.bits4, rule.bits6 = (int(bits) for bits in name.split(","))
            self.learns |= rule.kind == FR_FROM_COOKIE
            self.reads_json |= rule.kind == FR_FROM_JSON
        self.rule_count = len(rules)
        self.kind = self.rules[0].kind if rules else FR_FROM_NONE
        if (self.kind == FR_FROM_INSERT or hint_name != "") != (codec is not None) or len(mark_key) != 16:
            raise InternalError("a codec goes with insert and with a hint, and only with them")
        if codec is not None and self.rule_count != 1:
            raise InternalError("a cookie of the balancer's goes with one rule")
        self.hint_name = self._names[0] if self.kind == FR_FROM_INSERT else hint_name.encode("ascii")
        self.term_random_bits = term_random_bits
        memcpy(&self.mark_key, <const char *>mark_key, 16)
        self.ttl_minutes = max(1, <uint32_t>((ttl_s + 59) // 60))
        self.set_cookie = (cookie_attributes + "\r\n").encode("ascii")

    def watch(self, Sights sights, int most):
        """Put the cookies of the next `most` requests, and of as many responses, aside there."""
        self.sights = sights
        self.looks_left = self.peeks_left = most if sights is not None else 0

    cdef void look(self, const uint8_t *data, const fr_head *head) noexcept:
        self.looks_left -= 1
        self.sights.request(data, head)

    cdef void peek(self, const uint8_t *data, const fr_head *head) noexcept:
        self.peeks_left -= 1
        self.sights.response(data, head)

    cdef const uint8_t *own_cookie(self, size_t *size) noexcept:
        size[0] = PyBytes_GET_SIZE(self.hint_name)
        return <const uint8_t *>PyBytes_AS_STRING(self.hint_name) if size[0] else NULL

    cdef Py_ssize_t find(self, const uint8_t *data, const fr_head *head, bytes client_text, fr_binding *binding, const uint8_t **key) noexcept:
        cdef Py_ssize_t size
        cdef size_t at = 0
        cdef fr_span client, found
        cdef int i
        if self.kind == FR_FROM_INSERT:
            binding.stale = False
            size = fr_cookie_value(data, head, self.rules[0].name, self.rules[0].name_size, &at)
            if size > 0 and self._verify(data + at, size, binding):
                key[0] = binding.token.key
                return sizeof(binding.token.key)
            return 0
        binding.rule = -1
        client.data, client.size = <const uint8_t *>PyBytes_AS_STRING(client_text), PyBytes_GET_SIZE(client_text)
        for i in range(self.rule_count):
            if self.rules[i].kind == FR_FROM_JSON:
                binding.wants_body = binding.wants_body or _may_hold_json(data, head)
                continue
            if fr_key_by_rule(&self.rules[i], data, head, client, binding.network, &found):
                key[0] = found.data
                binding.rule = i
                if self.codec is not None:
                    self._find_hint(data, head, found.data, found.size, binding)
                return found.size
        return 0

    cdef Py_ssize_t find_in_json(self, const uint8_t *body, Py_ssize_t size, const uint8_t **key) noexcept:
        cdef fr_out *out = &self.engine.out
        cdef size_t found
        cdef int i
        fr_out_clear(out)
        if not fr_out_room(out, FR_KEY_BYTES_MAX):
            fr_out_clear(out)
            return 0
        for i in range(self.rule_count):
            if self.rules[i].kind == FR_FROM_JSON:
                found = fr_json_key(body, size, self.rules[i].name, self.rules[i].name_size, out.data, FR_KEY_BYTES_MAX)
                if found:
                    key[0] = out.data
                    return found
        return 0

    cdef void _mark(self, const uint8_t *key, Py_ssize_t size, uint8_t *mark) noexcept:
        cdef fr_fingerprint of_key = fr_siphash128(&self.mark_key, key, <size_t>size)
        memcpy(mark, &of_key, 16)

    cdef void _find_hint(self, const uint8_t *data, const fr_head *head, const uint8_t *key, Py_ssize_t key_size, fr_binding *binding) noexcept:
        """The hint beside an application's cookie counts for that cookie's value only."""
        cdef uint8_t mark[16]
        cdef size_t at = 0
        cdef Py_ssize_t size = fr_cookie_value(data, head, <const uint8_t *>PyBytes_AS_STRING(self.hint_name), PyBytes_GET_SIZE(self.hint_name), &at)
        self._mark(key, key_size, mark)
        if size <= 0 or not self._verify(data + at, size, binding) or memcmp(binding.token.key, mark, 16):
            binding.has_token = binding.hint = False
            memcpy(binding.token.key, mark, 16)

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
            if self.kind == FR_FROM_INSERT and age:
                binding.stale = True
            else:
                self.engine.counts.cookie_rejected[5] += 1
            return False
        # Issued up to a quarter before its user's last request: past ttl the binding may live, the hint not.
        binding.has_token = True
        binding.old_key = self.codec.key_index(text) > 0
        binding.hint = age <= self.ttl_minutes
        return True

    cdef void invent(self, fr_binding *binding) noexcept:
        self.engine.counts.cookie_rejected[5] += binding.stale
        binding.fresh_token = True
        self.engine.random(binding.token.key, sizeof(binding.token.key))
        self._draw_term(binding)

    cdef void _draw_term(self, fr_binding *binding) noexcept:
        """As fastroute.affinity.record.new_term: when it began, to the minute, above bits that nobody can guess."""
        self.engine.random(<uint8_t *>&binding.token.term, sizeof(binding.token.term))
        binding.token.term &= (<uint64_t>1 << self.term_random_bits) - 1
        binding.token.term |= <uint64_t>self.engine.minute * 60 << self.term_random_bits
        binding.token.term = binding.token.term or 1
        binding.token.generation = 1

    cdef void put_cookie(self, fr_out *out, fr_binding *binding, uint64_t digest) noexcept:
        cdef uint8_t text[160]
        cdef Py_ssize_t size
        cdef uint32_t age
        if self.codec is None or not (binding.fresh_token or binding.bound):
            return
        if binding.fresh_token:
            pass
        elif not binding.has_token and not binding.news:
            return      # a client that keeps no cookies would cost a signature with each answer
        elif not binding.has_token or binding.term != binding.token.term or binding.generation != binding.token.generation:
            binding.token.term, binding.token.generation = binding.term, binding.generation
        else:
            age = self.engine.minute - binding.token.issued_minute if self.engine.minute > binding.token.issued_minute else 0
            if age * 4 < self.ttl_minutes and not binding.old_key:
                return
        binding.token.server_digest = digest
        binding.token.issued_minute = self.engine.minute
        size = self.codec.sign(&binding.token, text)
        fr_out_text(out, b"Set-Cookie: ")
        fr_out_put(out, PyBytes_AS_STRING(self.hint_name), PyBytes_GET_SIZE(self.hint_name))
        fr_out_text(out, b"=")
        fr_out_put(out, text, size)
        fr_out_put(out, PyBytes_AS_STRING(self.set_cookie), PyBytes_GET_SIZE(self.set_cookie))
        self.engine.counts.cookies_set += 1

    cdef int learn(self, Router router, const uint8_t *data, const fr_head *head, bytes key, int slot, fr_out *out,
                   fr_binding *binding) except -1:
        """A server that gives a client a session has it: remember that before the session is first shown to us. One that
        takes the session back needs no binding any more. An answer that failed (5xx) says neither."""
        cdef unsigned int i
        cdef size_t at = 0, size = 0, found_at = 0, found_size = 0
        cdef const fr_field *field
        cdef bint found, ended
        cdef int r
        if head.status >= 500:
            return 0
        for r in range(self.rule_count):
            if self.rules[r].kind != FR_FROM_COOKIE:
                continue
            found = ended = False
            for i in range(head.field_count):       # of several the last one holds (RFC 6265 5.3)
                field = &head.fields[i]
                if field.id == FR_FIELD_SET_COOKIE and fr_sets_cookie(data, field, self.rules[r].name,
                                                                      self.rules[r].name_size, &at, &size):
                    found, found_at, found_size = True, at, size
                    ended = fr_ends_cookie(data + field.value_at, field.value_size, <int64_t>self.engine.minute * 60)
            if not found:
                continue
            if found_size > 1 and data[found_at] == c'"' and data[found_at + found_size - 1] == c'"':  # as find() reads it
                found_at += 1
                found_size -= 2
            if ended:
                if key is not None and binding.rule == r:
                    router.forget(key)
                    binding.bound = binding.fresh_token = False
                    if binding.has_token:
                        self._take_back(out)
                continue
            if found_size == 0 or found_size > FR_KEY_BYTES_MAX:
                continue
            if (key is not None and <size_t>PyBytes_GET_SIZE(key) == found_size
                    and memcmp(PyBytes_AS_STRING(key), data + found_at, found_size) == 0):
                continue
            self._mark(data + found_at, <Py_ssize_t>found_size, binding.token.key)
            self._draw_term(binding)
            binding.fresh_token = True              # its hint goes out with the session itself
            router.learn(PyBytes_FromStringAndSize(<const char *>data + found_at, <Py_ssize_t>found_size), slot, binding.token.term)
        return 0

    cdef void _take_back(self, fr_out *out) noexcept:
        """The hint of a session that has ended."""
        fr_out_text(out, b"Set-Cookie: ")
        fr_out_put(out, PyBytes_AS_STRING(self.hint_name), PyBytes_GET_SIZE(self.hint_name))
        fr_out_text(out, b"=; Max-Age=0")
        fr_out_put(out, PyBytes_AS_STRING(self.set_cookie), PyBytes_GET_SIZE(self.set_cookie))


cdef bint _may_hold_json(const uint8_t *data, const fr_head *head) noexcept:
    """Is a body announced that is JSON and may be waited for?"""
    if head.body == FR_BODY_LENGTH:
        return 0 < head.content_length <= _JSON_BYTES_MAX and fr_has_json(data, head)
    return head.body == FR_BODY_CHUNKED and fr_has_json(data, head)
