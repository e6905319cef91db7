# board: memory that the processes of one replica share: what each worker counted, and what operators ordered.
# A Row is one worker's part. Counting is `cell.responses[2] += 1` on the pointers given out here: one writer per row.
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "fr_board.h" nogil:
    enum:
        FR_BOARD_CLASSES
        FR_BOARD_REASONS
        FR_BOARD_BOUNDS
        FR_BOARD_ENGINE_BYTES
        FR_BOARD_HEADER_BYTES
        FR_BOARD_NOTE_BYTES
        FR_BOARD_TELLS_BYTES
        FR_BOARD_NAME_BYTES
    enum:
        FR_RETRY_OK
        FR_RETRY_FAILED
    enum:
        FR_WHY_NEAR
        FR_WHY_POLICY
        FR_WHY_PANIC
        FR_WHY_OTHER
    ctypedef struct fr_histogram:
        uint64_t *counts
        uint64_t sum_ns
    ctypedef struct fr_board_server:
        uint64_t *responses
        uint64_t requests
        uint64_t failures
        int64_t in_flight
        uint64_t latency_ns
        double weight_effective
        uint32_t weight
        uint32_t state
        uint32_t *flips
    ctypedef struct fr_board_pool:
        uint64_t *selections
        uint64_t *responses
        uint64_t *retries
        fr_histogram duration
        uint64_t *cache
        uint64_t *gauges
    ctypedef struct fr_board_listener:
        uint64_t open
    ctypedef struct fr_board_health:
        uint64_t word
        uint64_t checked_ms
        uint64_t latency_ns
        uint64_t checks
        uint64_t failed
        uint64_t flips
        uint64_t sequence
        uint64_t tells_size
        char *tells
    ctypedef struct fr_board_header:
        uint64_t version
        uint32_t rows_used
        uint32_t servers_used
        uint32_t stopping
        uint64_t reloads
        uint64_t reloads_ok
        uint64_t reloads_refused
        uint64_t note_size
        char *note
        uint64_t keeper
        char *name
    void fr_observe(fr_histogram *histogram, uint64_t ns) noexcept

@cython.final
cdef class Board:
    cdef uint8_t *base
    cdef readonly uint64_t size_bytes
    cdef readonly uint64_t row_bytes
    cdef readonly uint32_t rows, listeners, pools, nodes, servers
    cdef uint64_t listeners_at, pools_at, nodes_at, servers_at     # within a row
    cdef uint64_t orders_at, health_at, rows_at
    cdef uint8_t *_row(self, uint32_t row) noexcept
    cdef fr_board_header *_header(self) noexcept
    cdef bint _has_row(self, uint32_t pid) noexcept
    cdef fr_board_health *_health(self, uint32_t column) except NULL
    cdef uint64_t _offset(self, str kind, uint32_t column) except? 0xFFFFFFFFFFFFFFFF

@cython.final
cdef class Row:
    cdef readonly Board board
    cdef readonly uint32_t index
    cdef uint8_t *at
    # Cells of this row; a column that is out of range is an error of the caller's.
    cdef void *engine(self) noexcept
    cdef fr_board_listener *listener(self, uint32_t column) noexcept
    cdef fr_board_pool *pool(self, uint32_t column) noexcept
    cdef fr_board_server *server(self, uint32_t column) noexcept

# Where the requests of one pool are counted: a row and the columns of the pool and its servers.
@cython.final
cdef class Tally:
    cdef readonly Row row
    cdef readonly uint32_t column
    cdef readonly dict columns                  # server's name -> column
    cdef readonly uint32_t other                # column of names that are not in it
    cdef fr_board_pool *pool_cell(self) noexcept
    cdef fr_board_server *server_cell(self, object name) noexcept
