# http_sticky: what a request says of the server it belongs to, and what a response tells the client of it: the affinity
# key, the balancer's own signed cookie, and keys that servers hand out. One Sticky per listener, one binding per request.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_sights cimport Sights
from fastroute._core.http_wire cimport Engine, fr_out
from fastroute._core.router cimport Router
from fastroute._core.hashes cimport fr_hash_key
from fastroute._core.token cimport TokenCodec, fr_token

cdef extern from "fr_request_key.h" nogil:
    # Where the affinity key of a request comes from. INSERT: the balancer's own signed cookie. COOKIE: the application's,
    # learned from its Set-Cookie too.
    enum: FR_FROM_NONE
    enum: FR_FROM_INSERT
    enum: FR_FROM_COOKIE
    enum: FR_FROM_HEADER
    enum: FR_FROM_CLIENT_IP
    enum: FR_FROM_QUERY
    enum: FR_FROM_PATH_PARAM
    enum: FR_FROM_PATH
    enum: FR_FROM_URL
    enum: FR_FROM_JSON
    enum: FR_KEY_BYTES_MAX
    ctypedef struct fr_key_rule:
        const uint8_t *name
        size_t name_size
        int kind
        int bits4
        int bits6

# What binds the present request.
ctypedef struct fr_binding:
    fr_token token                      # the client's, or its new one
    uint64_t term                       # of the decision that the request follows; 0: none
    uint32_t generation
    bint bound                          # by a record: elsewhere only after a move
    bint touch                          # the record wants its expiry slid
    bint news                           # this machine had not known it for sure, or a touch was due: who has no hint gets one
    bint has_token                      # the client brought a cookie of ours that counts
    bint fresh_token                    # it gets its first one with this answer
    bint hint                           # the cookie's server, term and generation count too
    bint stale                          # after find() without a key: the client brought one in a cookie that is too old
    bint old_key                        # the cookie was signed by a key that is on its way out
    bint wants_body                     # a JSON body comes first in the list, or nothing else has a key
    char network[64]                    # text of a client's network
    int rule                            # which of the rules found the key; -1: none

@cython.final
cdef class Sticky:
    cdef Engine engine
    cdef TokenCodec codec               # with FR_FROM_INSERT
    cdef int kind                       # FR_FROM_* of the first rule
    cdef fr_key_rule rules[8]           # in the order in which they are tried; names belong to _names
    cdef int rule_count
    cdef bint learns                    # a rule is a cookie
    cdef readonly bint reads_json
    cdef tuple _names
    cdef uint32_t ttl_minutes
    cdef int term_random_bits           # of a new term; above them its birth, in seconds
    cdef bytes hint_name                # of the balancer's own cookie: the rule's with FR_FROM_INSERT; beside an application's; or b""
    cdef fr_hash_key mark_key           # beside an application's cookie: the token's key is a mark of that cookie
    cdef bytes set_cookie               # what follows the token in Set-Cookie
    cdef int looks_left, peeks_left     # requests and responses whose cookies are put aside; 0 most of the time
    cdef Sights sights                  # where; None: nowhere, and both are 0
    # Put aside this request's, this response's cookies: while looks_left, peeks_left is not 0.
    cdef void look(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void peek(self, const uint8_t *data, const fr_head *head) noexcept
    # Size of the request's key, 0: it has none; *key points into the head, the client's address or the binding.
    cdef Py_ssize_t find(self, const uint8_t *data, const fr_head *head, bytes client_text, fr_binding *binding, const uint8_t **key) noexcept
    # The key in a JSON body, in the engine's scratch buffer; 0: none. After find() with wants_body.
    cdef Py_ssize_t find_in_json(self, const uint8_t *body, Py_ssize_t size, const uint8_t **key) noexcept
    # A new user's token: nobody can guess its key or term.
    cdef void invent(self, fr_binding *binding) noexcept
    # The balancer's cookie as the relay hides it from servers and servers may not set it; size 0: there is none.
    cdef const uint8_t *own_cookie(self, size_t *size) noexcept
    # Set-Cookie, when it is due; digest: of the server that answers.
    cdef void put_cookie(self, fr_out *out, fr_binding *binding, uint64_t digest) noexcept
    # Bind the key that this response hands out, or forget the one it takes back, `key` being the request's own; then the
    # binding is that of the new key. Raises what the router raises.
    cdef int learn(self, Router router, const uint8_t *data, const fr_head *head, bytes key, int slot, fr_out *out,
                   fr_binding *binding) except -1
    cdef bint _verify(self, const uint8_t *text, Py_ssize_t size, fr_binding *binding) noexcept
    cdef void _mark(self, const uint8_t *key, Py_ssize_t size, uint8_t *mark) noexcept
    cdef void _draw_term(self, fr_binding *binding) noexcept
    cdef void _find_hint(self, const uint8_t *data, const fr_head *head, const uint8_t *key, Py_ssize_t key_size, fr_binding *binding) noexcept
    cdef void _take_back(self, fr_out *out) noexcept
