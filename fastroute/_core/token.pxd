# token: the balancer's own signed cookie, "v1.<key id>.<payload>.<mac>", signed and verified without Python objects.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

ctypedef struct fr_token:
    uint8_t key[16]                     # opaque random affinity key
    uint64_t server_digest              # keyed digest of the server's name (the hint)
    uint64_t term
    uint32_t generation
    uint32_t issued_minute              # minutes since 1970

cdef enum:
    FR_TOKEN_OK = 0
    FR_TOKEN_MALFORMED = 1              # alphabet, length or shape
    FR_TOKEN_UNKNOWN_KEY = 2            # no key with this id in the key ring
    FR_TOKEN_BAD_MAC = 3
    FR_TOKEN_VERSION = 4

cdef class TokenCodec:
    # Size of the text written to out (at most TOKEN_CAPACITY = 160 bytes).
    cdef Py_ssize_t sign(self, const fr_token *token, uint8_t *out) noexcept
    # Verdict; *token is filled when FR_TOKEN_OK. Verified texts are remembered for a moment.
    cdef int verify(self, const uint8_t *text, Py_ssize_t size, fr_token *token) noexcept
    # Keyed digest of a server's name, as the hint carries it.
    cpdef uint64_t server_digest(self, str name) except? 0
