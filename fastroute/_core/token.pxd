# token: the balancer's own signed cookie, "v1.<key id>.<payload>.<mac>", signed and verified without Python objects.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "fr_sha256.h" nogil:
    ctypedef struct fr_hmac_key:
        pass

cdef extern from "fr_hash.h" nogil:
    ctypedef struct fr_hash_key:
        uint64_t k0
        uint64_t k1

ctypedef struct fr_token:
    uint8_t key[16]                     # opaque random affinity key
    uint64_t server_digest              # of the server's name: the hint
    uint64_t term
    uint32_t generation
    uint32_t issued_minute              # minutes since 1970

cdef enum:
    FR_TOKEN_OK = 0
    FR_TOKEN_MALFORMED = 1              # alphabet, length or shape
    FR_TOKEN_UNKNOWN_KEY = 2            # no key with this id in the key ring
    FR_TOKEN_BAD_MAC = 3
    FR_TOKEN_VERSION = 4

cdef enum:
    TOKEN_CAPACITY = 160                # longest text that is looked at or written
    TOKEN_KEYS_MAX = 8                  # keys of a ring: one that signs, the rest on their way in or out
    TOKEN_MEMO_SLOTS = 512              # verified texts remembered; a power of two

ctypedef struct fr_token_key:           # one key of the ring, ready for use
    uint64_t id                         # the 8 characters of the key id
    fr_hmac_key mac
    fr_hash_key mask                    # hides the server's digest

ctypedef struct fr_token_memo:          # a verified text and what it says; size 0: empty
    uint64_t size
    uint8_t text[96]
    fr_token token

# Immutable but for memo and counters: replace the codec to change its keys. One codec belongs to one thread.
@cython.final
cdef class TokenCodec:
    cdef readonly str fleet
    cdef readonly str purpose
    cdef fr_token_key *keys
    cdef uint32_t key_count
    cdef fr_token_memo *memo
    cdef uint64_t counts[5]             # verdicts of verify, by FR_TOKEN_*
    # Size of the text written to out (at most TOKEN_CAPACITY = 160 bytes).
    cdef Py_ssize_t sign(self, const fr_token *token, uint8_t *out) noexcept
    # Verdict; *token is filled when FR_TOKEN_OK. Verified texts are remembered until others take their place.
    # Refusals are counted. Python calls sign_text and verify_text.
    cdef int verify(self, const uint8_t *text, Py_ssize_t size, fr_token *token) noexcept
    # The key of the ring that signed a text of which verify said FR_TOKEN_OK: 0 is the one that signs now; others are a
    # reason to issue the cookie again.
    cdef int key_index(self, const uint8_t *text) noexcept
    cdef int verify_fresh(self, const uint8_t *text, Py_ssize_t size, fr_token *token) noexcept # without memo and counts
    # Digest of a server's name, as fr_token carries it: the same for every key ring of a fleet. The text holds it under a
    # mask that only the keys' owner can take off.
    cpdef uint64_t server_digest(self, str name) except? 0
