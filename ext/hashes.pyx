"""hashes: the hash functions of ext/fr_hash.h to Python, for tests, tools and the control plane.

Not for the data plane: compiled code includes the header and inlines them.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from fastroute._core.hashes cimport fr_fingerprint, fr_hash_key, fr_siphash128, fr_xxh64

from fastroute.errors import UsageError


cdef extern from "fr_key.h":
    enum: FR_KEY_OK
    enum: FR_KEY_SURROGATE
    int fr_key_bytes(object key, const uint8_t **data, Py_ssize_t *size) noexcept


cdef int _bytes_of(object data, const uint8_t **start, Py_ssize_t *size) except -1:
    cdef int verdict = fr_key_bytes(data, start, size)
    if verdict == FR_KEY_OK:
        return 0
    if verdict == FR_KEY_SURROGATE:
        raise UsageError("data: a str with a lone surrogate has no UTF-8; accepted are other str and bytes")
    raise UsageError(f"data: found {type(data).__name__}; accepted are str (hashed as UTF-8) and bytes")


def xxh64(data, seed=0):
    """XXH64 of a str (as UTF-8) or bytes.

    Args:
        data: what to hash, of any length.
        seed: 0..2**64-1.

    Returns:
        The hash, 0..2**64-1.

    Raises:
        UsageError: data of another type, a lone surrogate, a seed out of range.

    Source: xxHash specification 0.1.1.
    """
    cdef const uint8_t *start
    cdef Py_ssize_t size
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise UsageError(f"seed {seed!r}: accepted are whole numbers from 0 to 2**64-1")
    _bytes_of(data, &start, &size)
    return fr_xxh64(start, <size_t>size, <uint64_t>seed)


def siphash128(key16, data):
    """SipHash-2-4 with 128-bit output.

    Args:
        key16: 16 bytes.
        data: str (as UTF-8) or bytes, of any length.

    Returns:
        16 bytes: the low word, then the high word, each little endian (the order of the authors' vectors).

    Raises:
        UsageError: a key of another type or length, data of another type.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; the authors' siphash.c.
    """
    cdef const uint8_t *start
    cdef Py_ssize_t size
    cdef fr_hash_key key
    cdef fr_fingerprint found
    if not isinstance(key16, bytes) or len(key16) != 16:
        raise UsageError("key16: accepted are exactly 16 bytes")
    _bytes_of(data, &start, &size)
    memcpy(&key, <const char *>key16, 16)
    found = fr_siphash128(&key, start, <size_t>size)
    return (<const char *>&found)[:16]
