# hashes: the hash functions to Python (hashes.pyx); compiled code includes ext/fr_hash.h and inlines them.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "fr_hash.h" nogil:
    ctypedef struct fr_fingerprint:
        uint64_t lo
        uint64_t hi
    ctypedef struct fr_hash_key:
        uint64_t k0
        uint64_t k1
    uint64_t fr_xxh64(const void *data, size_t size, uint64_t seed) noexcept
    fr_fingerprint fr_siphash128(const fr_hash_key *key, const void *data, size_t size) noexcept
