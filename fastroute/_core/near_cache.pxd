# near_cache: values of this process by key, bounded in bytes, with two time limits per entry. The GIL guards it.
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.base cimport fr_clock
from fastroute._core.hashes cimport fr_hash_key

cdef extern from "fr_near.h" nogil:
    enum: FR_NEAR_NONE
    enum: FR_NEAR_OVERHEAD_BYTES
    enum: FR_NEAR_ENTRIES_MAX
    enum: FR_NEAR_GUARD_CELLS
    ctypedef struct fr_near_entry:
        void *owner
        const uint8_t *key
        uint64_t hash
        uint64_t fresh_until_ms
        uint64_t stale_until_ms
        uint64_t cost_bytes
        uint32_t key_size
        uint32_t newer
        uint32_t older
        uint8_t hits
        uint8_t kind
    ctypedef struct fr_near:
        fr_near_entry *entries
        void *buckets
        void *ghosts
        uint64_t bytes
        uint64_t bytes_max
        uint32_t count
        uint32_t used
        uint64_t evictions
        uint64_t expirations
        uint64_t sequence
        uint64_t *guard
    void fr_near_init(fr_near *cache, uint64_t bytes_max) noexcept
    int fr_near_reserve(fr_near *cache) noexcept
    uint32_t fr_near_find(const fr_near *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size) noexcept
    void fr_near_hit(fr_near_entry *entry) noexcept
    void fr_near_resize(fr_near *cache, uint32_t index, uint64_t cost_bytes) noexcept
    uint32_t fr_near_any(const fr_near *cache) noexcept
    void fr_near_doom(fr_near *cache, uint32_t index) noexcept
    void fr_near_evict(fr_near *cache, uint64_t now_ms) noexcept
    uint32_t fr_near_link(fr_near *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size,
                           uint64_t cost_bytes) noexcept
    uint32_t fr_near_take_doomed(fr_near *cache) noexcept
    void fr_near_release(fr_near *cache, uint32_t index) noexcept
    void fr_near_disturb(fr_near *cache, uint64_t hash) noexcept
    int fr_near_undisturbed(const fr_near *cache, uint64_t hash, uint64_t ticket) noexcept

cdef enum:
    NEAR_KIND_STR = 0
    NEAR_KIND_BYTES = 1

cdef class NearCache:
    cdef fr_near index
    cdef fr_clock clock
    cdef fr_hash_key hash_key
    cdef list values                    # by entry index; held here so that the collector sees through them
    cdef uint64_t hits, stale_hits, misses, refused_fills

    # Borrowed reference to the fresh value of a key, NULL when there is none; counts and marks the hit. Never raises,
    # never runs other code: expired entries stay until a put or a Python-level get meets them.
    cdef PyObject *fresh(self, int kind, const uint8_t *key, uint32_t size) noexcept
    cdef void _drain(self) noexcept
    cdef void _store(self, object key, int kind, const uint8_t *data, uint32_t size, uint64_t hash, object value,
                     uint64_t cost_bytes, uint64_t fresh_ms, uint64_t keep_ms)
