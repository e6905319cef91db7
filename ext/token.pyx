"""token: the balancer's own signed cookie value, "v1.<key id>.<payload>.<mac>", each part base64url without padding.

Not here: cookie attributes and where secrets come from (fastroute/session/cookie.py); what a token is worth (the router).

Per secret of the key ring, once (control plane, Python's hmac):
    key     = HMAC-SHA256(secret, "fastroute token key v1" LP(purpose))              LP(x) = 2 bytes length (big endian), x
    key id  = first 6 bytes of HMAC-SHA256(key, "key id"), as 8 characters
    mask    = first 16 bytes of HMAC-SHA256(key, "hint mask")
Per token:
    payload = affinity key (16 bytes), term (8), generation (4), issued minute (4), hint (8), little endian, 40 bytes in all;
              verify accepts up to 32 more bytes behind them, signed, for versions that add fields
    hint    = the server's digest XOR SipHash-128(mask, the other 32 bytes).lo: a client sees neither names nor whether two
              users share a server
    mac     = first 16 bytes of HMAC-SHA256(key, context payload), context = "v1" LP(purpose) LP(fleet) LP(key id), filled
              with zero bytes up to a multiple of 64

The context is a whole number of blocks, so its compression is done once per key too: signing is two compressions.
A text is refused before any of this unless every character and length fits; unused bits in a part's last character must
be zero, so one token has one text. The MAC is compared in constant time, and so is a text with the memo's.

The memo: the codec is consulted once per request of a session, with the same text for minutes. A direct-mapped table
holds the last verified texts (whole, with their token), so the repeated verify is one comparison. A verdict does not
depend on time (expiry is the caller's, from the issued minute), so an entry stays true as long as the codec lives.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import hashlib
import hmac

from fastroute.errors import UsageError

cdef extern from "fr_sha256.h" nogil:
    ctypedef void (*fr_sha256_blocks)(uint32_t *state, const uint8_t *data, size_t blocks)
    const uint32_t *fr_sha256_initial
    void fr_sha256_portable(uint32_t *state, const uint8_t *data, size_t blocks)
    fr_sha256_blocks fr_sha256_choose()
    void fr_sha256_finish(fr_sha256_blocks blocks, const uint32_t *begun, uint64_t before, const uint8_t *data, size_t size, uint8_t *digest)
    void fr_hmac_prepare(fr_sha256_blocks blocks, const uint8_t *key, size_t key_size, const uint8_t *context, size_t context_size, fr_hmac_key *out)
    void fr_hmac(fr_sha256_blocks blocks, const fr_hmac_key *key, const uint8_t *data, size_t size, uint8_t *mac)
    int fr_equal_constant_time(const uint8_t *a, const uint8_t *b, size_t size)

cdef extern from "fr_hash.h" nogil:
    ctypedef struct fr_fingerprint:
        uint64_t lo
        uint64_t hi
    fr_fingerprint fr_siphash128(const fr_hash_key *key, const void *data, size_t size)

cdef extern from "fr_base64.h" nogil:
    const uint8_t *fr_base64_values
    size_t fr_base64_size(size_t size)
    size_t fr_base64_encode(const uint8_t *data, size_t size, uint8_t *out)
    Py_ssize_t fr_base64_decode(const uint8_t *text, size_t size, uint8_t *out)

cdef enum:
    PAYLOAD_BYTES = 40
    PAYLOAD_BYTES_MAX = 72              # room for fields of later versions
    MAC_BYTES = 16
    MAC_CHARACTERS = 22
    KEY_ID_CHARACTERS = 8
    SECRET_BYTES_MIN = 32

CAUSES = ("ok", "malformed", "unknown_key", "bad_mac", "version")

cdef fr_sha256_blocks sha256_blocks = fr_sha256_choose()

SHA256_NATIVE = sha256_blocks != fr_sha256_portable
"""Whether this processor's own SHA-256 instructions are used."""


def sha256(bytes data, *, bint portable=False):
    """SHA-256 as tokens use it, or the portable implementation; for tests."""
    cdef uint8_t digest[32]
    fr_sha256_finish(fr_sha256_portable if portable else sha256_blocks, fr_sha256_initial, 0,
                     <const uint8_t *><const char *>data, len(data), digest)
    return <bytes>digest[:32]


cdef bytes prefixed(bytes value):
    return len(value).to_bytes(2, "big") + value


cdef bytes keyed(bytes key, bytes message):
    return hmac.new(key, message, hashlib.sha256).digest()


@cython.final
cdef class TokenCodec:
    """Signs and verifies tokens with a key ring: the first secret signs, all verify.

    Args:
        secrets: 1 to 8 different byte strings of at least 32 bytes.
        fleet: tokens of another fleet do not verify.
        purpose: tokens made for another purpose do not verify.

    Raises:
        UsageError: arguments outside these ranges; a secret's value is never shown.
    """

    def __cinit__(self, object secrets, str fleet, str purpose):
        cdef fr_token_key *key
        cdef bytes derived, mask, context, purpose_bytes = purpose.encode(), fleet_bytes = fleet.encode(), key_id
        cdef uint32_t i
        secrets = [bytes(secret) if isinstance(secret, bytes) else secret for secret in secrets]  # subclasses too
        if not 1 <= len(secrets) <= TOKEN_KEYS_MAX:
            raise UsageError(f"{len(secrets)} token secrets: accepted are 1 to {TOKEN_KEYS_MAX}")
        if len(purpose_bytes) > 255 or len(fleet_bytes) > 255:
            raise UsageError("token purpose and fleet: accepted are at most 255 bytes each")
        for i, secret in enumerate(secrets):
            if not isinstance(secret, bytes) or len(secret) < SECRET_BYTES_MIN:
                raise UsageError(f"token secret {i + 1}: accepted are at least {SECRET_BYTES_MIN} bytes")
        if len(set(secrets)) != len(secrets):
            raise UsageError("token secrets: one comes twice")
        self.fleet, self.purpose = fleet, purpose
        self.keys = <fr_token_key *>calloc(len(secrets), sizeof(fr_token_key))
        self.memo = <fr_token_memo *>calloc(TOKEN_MEMO_SLOTS, sizeof(fr_token_memo))
        if self.keys == NULL or self.memo == NULL:
            raise MemoryError
        for secret in secrets:
            key = &self.keys[self.key_count]
            derived = keyed(secret, b"fastroute token key v1" + prefixed(purpose_bytes))
            key_id = keyed(derived, b"key id")[:6]
            fr_base64_encode(<const uint8_t *><const char *>key_id, 6, <uint8_t *>&key.id)
            mask = keyed(derived, b"hint mask")
            memcpy(&key.mask, <const char *>mask, 16)
            context = b"v1" + prefixed(purpose_bytes) + prefixed(fleet_bytes) + prefixed((<char *>&key.id)[:KEY_ID_CHARACTERS])
            context += bytes((64 - len(context) % 64) % 64)  # C division: the operand of % is not negative
            fr_hmac_prepare(sha256_blocks, <const uint8_t *><const char *>derived, 32, <const uint8_t *><const char *>context,
                            len(context), &key.mac)
            for i in range(self.key_count):
                if self.keys[i].id == key.id:
                    raise UsageError(f"token secrets {i + 1} and {self.key_count + 1} have one key id: replace one of them")
            self.key_count += 1

    def __dealloc__(self):
        if self.keys != NULL:
            memset(self.keys, 0, self.key_count * sizeof(fr_token_key))
            free(self.keys)
        free(self.memo)

    def __repr__(self):
        return f"TokenCodec(fleet={self.fleet!r}, purpose={self.purpose!r}, keys={self.key_count})"

    def __reduce__(self):
        raise TypeError("a TokenCodec holds secrets and is not pickled")

    cdef Py_ssize_t sign(self, const fr_token *token, uint8_t *out) noexcept:
        cdef const fr_token_key *key = &self.keys[0]
        cdef uint8_t payload[PAYLOAD_BYTES]
        cdef uint8_t mac[32]
        cdef size_t at
        pack(key, token, payload)
        fr_hmac(sha256_blocks, &key.mac, payload, PAYLOAD_BYTES, mac)
        memcpy(out, b"v1.", 3)
        memcpy(out + 3, &key.id, KEY_ID_CHARACTERS)
        out[11] = b"."
        at = 12 + fr_base64_encode(payload, PAYLOAD_BYTES, out + 12)
        out[at] = b"."
        return <Py_ssize_t>(at + 1 + fr_base64_encode(mac, MAC_BYTES, out + at + 1))

    cdef int verify(self, const uint8_t *text, Py_ssize_t size, fr_token *token) noexcept:
        cdef fr_token_memo *memo = NULL
        cdef uint64_t tail
        cdef int verdict
        if 8 <= size <= <Py_ssize_t>sizeof(memo.text):
            memcpy(&tail, text + size - 8, 8)  # of the MAC: as good as random
            memo = &self.memo[(tail * <uint64_t>0x9E3779B97F4A7C15) >> 55]
            if memo.size == <uint64_t>size and fr_equal_constant_time(text, memo.text, size):
                token[0] = memo.token
                self.counts[FR_TOKEN_OK] += 1
                return FR_TOKEN_OK
        verdict = self.verify_fresh(text, size, token)
        self.counts[verdict] += 1
        if verdict == FR_TOKEN_OK and memo != NULL:
            memo.size = size
            memcpy(memo.text, text, size)
            memo.token = token[0]
        return verdict

    cdef int verify_fresh(self, const uint8_t *text, Py_ssize_t size, fr_token *token) noexcept:
        cdef Py_ssize_t dots[3]
        cdef Py_ssize_t i, found = 0, payload_size
        cdef uint8_t payload[PAYLOAD_BYTES_MAX + 3]
        cdef uint8_t mac[32]
        cdef uint8_t given[MAC_BYTES + 2]
        cdef const fr_token_key *key
        if size > TOKEN_CAPACITY:
            return FR_TOKEN_MALFORMED
        for i in range(size):
            if fr_base64_values[text[i]]:
                continue
            if text[i] != b"." or found == 3:
                return FR_TOKEN_MALFORMED
            dots[found] = i
            found += 1
        if found != 3 or dots[0] < 2 or text[0] != b"v":
            return FR_TOKEN_MALFORMED
        for i in range(1, dots[0]):
            if not b"0" <= text[i] <= b"9":
                return FR_TOKEN_MALFORMED
        if dots[0] != 2 or text[1] != b"1":
            return FR_TOKEN_VERSION
        payload_size = dots[2] - dots[1] - 1
        if (payload_size < <Py_ssize_t>fr_base64_size(PAYLOAD_BYTES) or payload_size > <Py_ssize_t>fr_base64_size(PAYLOAD_BYTES_MAX)
                or size - dots[2] - 1 != MAC_CHARACTERS or dots[1] == dots[0] + 1):
            return FR_TOKEN_MALFORMED
        payload_size = fr_base64_decode(text + dots[1] + 1, payload_size, payload)
        if payload_size < 0 or fr_base64_decode(text + dots[2] + 1, MAC_CHARACTERS, given) != MAC_BYTES:
            return FR_TOKEN_MALFORMED
        i = self.key_index(text) if dots[1] - dots[0] - 1 == KEY_ID_CHARACTERS else -1
        if i < 0:
            return FR_TOKEN_UNKNOWN_KEY
        key = &self.keys[i]
        fr_hmac(sha256_blocks, &key.mac, payload, payload_size, mac)
        if not fr_equal_constant_time(mac, given, MAC_BYTES):
            return FR_TOKEN_BAD_MAC
        unpack(key, payload, token)
        return FR_TOKEN_OK

    cdef int key_index(self, const uint8_t *text) noexcept:
        cdef uint64_t key_id
        cdef uint32_t i
        memcpy(&key_id, text + 3, KEY_ID_CHARACTERS)
        for i in range(self.key_count):
            if self.keys[i].id == key_id:
                return <int>i
        return -1

    cpdef uint64_t server_digest(self, str name) except? 0:
        cdef bytes message = b"fastroute server" + prefixed(self.fleet.encode()) + prefixed(name.encode())
        return int.from_bytes(hashlib.sha256(message).digest()[:8], "little") or 1

    def sign_text(self, bytes key, uint64_t server_digest, uint64_t term, uint32_t generation, uint32_t issued_minute):
        """The token's text.

        Args:
            key: opaque affinity key, 16 bytes.
            server_digest: as server_digest() gives it.
            term, generation: name the decision.
            issued_minute: minutes since 1970.
        """
        cdef fr_token token
        cdef uint8_t text[TOKEN_CAPACITY]
        if len(key) != 16:
            raise UsageError(f"affinity key of {len(key)} bytes: accepted are 16")
        memcpy(token.key, <const char *>key, 16)
        token.server_digest = server_digest
        token.term = term
        token.generation = generation
        token.issued_minute = issued_minute
        return (<const char *>text)[:self.sign(&token, text)].decode("ascii")

    def verify_text(self, object text):
        """What a token says: (key, server_digest, term, generation, issued_minute), or the cause of its refusal, one of
        "malformed", "unknown_key", "bad_mac", "version".

        Args:
            text: bytes, or str of ASCII (any other str is malformed).
        """
        cdef fr_token token
        cdef bytes data = text if isinstance(text, bytes) else (<str?>text).encode("utf-8", "surrogatepass")
        cdef int verdict = self.verify(<const uint8_t *><const char *>data, len(data), &token)
        if verdict != FR_TOKEN_OK:
            return CAUSES[verdict]
        return (<bytes>token.key[:16], token.server_digest, token.term, token.generation, token.issued_minute)

    def signed_by(self, bytes text):
        """Index in the key ring of the key that signed an accepted text; None for any other text."""
        cdef fr_token token
        if self.verify(<const uint8_t *><const char *>text, len(text), &token) != FR_TOKEN_OK:
            return None
        return self.key_index(<const uint8_t *><const char *>text)

    def accepted(self):
        """How many texts were accepted."""
        return self.counts[FR_TOKEN_OK]

    def rejected(self):
        """How many texts were refused, by cause."""
        return {CAUSES[i]: self.counts[i] for i in range(1, 5)}

    def forget(self):
        """Empty the memo; for tests and benchmarks."""
        memset(self.memo, 0, TOKEN_MEMO_SLOTS * sizeof(fr_token_memo))

    def repeat(self, str what, bytes text, uint32_t rounds):
        """Do one thing `rounds` times with an accepted text, in a compiled loop; for benchmarks.

        Args:
            what: "sign", "verify_remembered" or "verify_fresh" (without the memo, as for a text seen first).
        """
        cdef fr_token token
        cdef uint8_t out[TOKEN_CAPACITY]
        cdef const uint8_t *data = <const uint8_t *><const char *>text
        cdef Py_ssize_t size = len(text)
        cdef uint32_t i, wrong = 0
        if self.verify(data, size, &token) != FR_TOKEN_OK:
            raise UsageError("not an accepted token")
        if what == "sign":
            for i in range(rounds):
                token.generation = i
                wrong += self.sign(&token, out) != size
        elif what == "verify_remembered":
            for i in range(rounds):
                wrong += self.verify(data, size, &token) != FR_TOKEN_OK
        elif what == "verify_fresh":
            for i in range(rounds):
                wrong += self.verify_fresh(data, size, &token) != FR_TOKEN_OK
        else:
            raise UsageError(f'{what!r}: accepted are "sign", "verify_remembered", "verify_fresh"')
        if wrong:
            raise UsageError("the text was accepted only sometimes")


cdef inline void pack(const fr_token_key *key, const fr_token *token, uint8_t *payload) noexcept nogil:
    cdef uint64_t hint
    memcpy(payload + 16, &token.term, 8)  # the mask's input first: everything but the hint, 32 bytes in a row
    memcpy(payload + 24, &token.generation, 4)
    memcpy(payload + 28, &token.issued_minute, 4)
    memcpy(payload, token.key, 16)
    hint = token.server_digest ^ fr_siphash128(&key.mask, payload, 32).lo
    memcpy(payload + 32, &hint, 8)


cdef inline void unpack(const fr_token_key *key, const uint8_t *payload, fr_token *token) noexcept nogil:
    cdef uint64_t hint
    memcpy(token.key, payload, 16)
    memcpy(&token.term, payload + 16, 8)
    memcpy(&token.generation, payload + 24, 4)
    memcpy(&token.issued_minute, payload + 28, 4)
    memcpy(&hint, payload + 32, 8)
    token.server_digest = hint ^ fr_siphash128(&key.mask, payload, 32).lo
