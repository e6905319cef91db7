# ring_hashes: the hash functions of the ring dialects; compiled code includes their headers and inlines them.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "fr_hash_md5.h" nogil:
    void fr_md5(const void *data, size_t size, uint32_t *digest) noexcept

cdef extern from "fr_hash_crc32.h" nogil:
    void fr_crc32_prepare() noexcept        # once per extension, under the GIL, before the others
    uint32_t fr_crc32_more(uint32_t state, const void *data, size_t size) noexcept
    uint32_t fr_crc32(const void *data, size_t size) noexcept

cdef extern from "fr_hash_murmur.h" nogil:
    uint64_t FR_MURMUR2_STD_SEED
    uint64_t fr_murmur64a(const void *data, size_t size, uint64_t seed) noexcept

cdef extern from "fr_hash_fnv.h" nogil:
    uint32_t fr_fnv1a_32(const void *data, size_t size) noexcept
    uint32_t fr_fnv1a_32_signed(const void *data, size_t size) noexcept
    uint64_t fr_fnv1a_64(const void *data, size_t size) noexcept

cdef extern from "fr_hash_jenkins.h" nogil:
    uint32_t fr_sdbm(const void *data, size_t size) noexcept
    uint32_t fr_djb2(const void *data, size_t size) noexcept
    uint32_t fr_wt6(const void *data, size_t size) noexcept
    uint32_t fr_one_at_a_time(const void *data, size_t size) noexcept
    uint32_t fr_avalanche(uint32_t a) noexcept
