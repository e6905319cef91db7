"""ring_hashes: the hash functions of the ring dialects to Python, for tests and tools; compiled code inlines the headers."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastroute._core.ring_hashes cimport (
    fr_avalanche, fr_crc32, fr_crc32_prepare, fr_djb2, fr_fnv1a_32, fr_fnv1a_64, fr_md5, fr_murmur64a,
    fr_one_at_a_time, fr_sdbm, fr_wt6,
)

from fastroute.errors import UsageError


cdef extern from "fr_key.h":
    enum: FR_KEY_OK
    int fr_key_bytes(object key, const uint8_t **data, Py_ssize_t *size) noexcept

fr_crc32_prepare()

NAMES = ("md5", "crc32", "murmur64a", "fnv1a_32", "fnv1a_64", "sdbm", "djb2", "wt6", "one_at_a_time")


def digest(name, data, seed=0):
    """A hash of str (as UTF-8) or bytes by name: a whole number, 32 or 64 bits; md5: its 16 bytes.

    Raises:
        UsageError: an unknown name, or data of another type.
    """
    cdef const uint8_t *start
    cdef Py_ssize_t size
    cdef uint32_t md5[4]
    if fr_key_bytes(data, &start, &size) != FR_KEY_OK:
        raise UsageError(f"data: found {type(data).__name__}; accepted are str (hashed as UTF-8) and bytes")
    if name == "md5":
        fr_md5(start, <size_t>size, md5)
        return (<const char *>md5)[:16]
    if name == "crc32":
        return fr_crc32(start, <size_t>size)
    if name == "murmur64a":
        return fr_murmur64a(start, <size_t>size, <uint64_t>seed)
    if name == "fnv1a_32":
        return fr_fnv1a_32(start, <size_t>size)
    if name == "fnv1a_64":
        return fr_fnv1a_64(start, <size_t>size)
    if name == "sdbm":
        return fr_sdbm(start, <size_t>size)
    if name == "djb2":
        return fr_djb2(start, <size_t>size)
    if name == "wt6":
        return fr_wt6(start, <size_t>size)
    if name == "one_at_a_time":
        return fr_one_at_a_time(start, <size_t>size)
    raise UsageError(f"hash {name!r} is unknown; accepted: {', '.join(NAMES)}")


def avalanche(a):
    """HAProxy's full_hash of 32 bits."""
    return fr_avalanche(<uint32_t>a)
