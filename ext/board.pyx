"""board: memory that the processes of one replica share: what each worker counted, and what operators ordered.

Not here: who gets which row and column (the supervisor, fastroute.metrics.layout), what becomes of the numbers
(fastroute.metrics.read). The layout and its rules stand in ext/fr_board.h.

Reading sums over rows: counters over all that were ever taken, gauges over those that have a process. Nothing waits.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os

from fastroute._core.pool cimport Pool

from fastroute.errors import UsageError

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t size)

cdef extern from "fr_board.h" nogil:
    enum:
        FR_BOARD_STATES
    const uint64_t *fr_board_bounds_ns
    enum:
        FR_BOARD_POOL_GAUGES
        FR_BOARD_NODE_GAUGES
    ctypedef struct fr_board_node:
        uint64_t *gauges
    ctypedef struct fr_board_row:
        uint32_t pid
        uint32_t accepting
        uint64_t applied
    ctypedef struct fr_board_order:
        uint64_t word
        uint64_t given_ms

cdef extern from *:
    """
    #define FR_SEEN(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    static uint64_t fr_seen64(const uint64_t *p) { return FR_SEEN(p); }
    static uint32_t fr_seen32(const uint32_t *p) { return FR_SEEN(p); }
    static void fr_say64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static void fr_say32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static uint64_t fr_next64(uint64_t *p) { return __atomic_add_fetch(p, 1, __ATOMIC_ACQ_REL); }
    static int fr_swap64(uint64_t *p, uint64_t was, uint64_t v) {
        return __atomic_compare_exchange_n(p, &was, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED); }
    static void fr_fence(void) { __atomic_thread_fence(__ATOMIC_ACQ_REL); }
    """
    uint64_t fr_seen64(const uint64_t *p) noexcept nogil
    uint32_t fr_seen32(const uint32_t *p) noexcept nogil
    void fr_say64(uint64_t *p, uint64_t v) noexcept nogil
    void fr_say32(uint32_t *p, uint32_t v) noexcept nogil
    uint64_t fr_next64(uint64_t *p) noexcept nogil
    int fr_swap64(uint64_t *p, uint64_t was, uint64_t v) noexcept nogil
    void fr_fence() noexcept nogil

REASONS = ("affinity-near", "affinity-store", "affinity-cookie", "policy", "moved", "fallback-hash", "panic", "other")
"""Reasons of a selection, in the order in which they are counted."""

CLASSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of status codes, in the order in which they are counted."""

BOUNDS_S = tuple([fr_board_bounds_ns[i] / 1e9 for i in range(FR_BOARD_BOUNDS)])
"""Upper bounds of the buckets of request durations, in seconds; one more bucket is above."""

NOTE_BYTES_MAX = FR_BOARD_NOTE_BYTES
TELLS_BYTES_MAX = FR_BOARD_TELLS_BYTES
TELLS_TRIES = 64
COLUMNS_MAX = 1 << 20

cdef enum:
    STATE_DOWN = 3


cdef class Board:
    """The memory of one replica.

    Args:
        rows: workers that may count at once.
        listeners, pools, nodes, servers: columns of a row, each at least 1.

    Raises:
        UsageError: a number outside 1..2**20.
        OSError: no memory.

    Notes: shared with children that are forked later; room that nobody uses takes address space alone. Supports the
        buffer protocol: the whole memory as writable bytes.
    """

    def __cinit__(self, uint32_t rows, *, uint32_t listeners, uint32_t pools, uint32_t nodes, uint32_t servers):
        cdef void *base
        for what, count in (("rows", rows), ("listeners", listeners), ("pools", pools), ("nodes", nodes), ("servers", servers)):
            if not 1 <= count <= COLUMNS_MAX:
                raise UsageError(f"{what} {count}: accepted are 1 to {COLUMNS_MAX}")
        self.rows, self.listeners, self.pools, self.nodes, self.servers = rows, listeners, pools, nodes, servers
        self.listeners_at = sizeof(fr_board_row) + FR_BOARD_ENGINE_BYTES
        self.pools_at = self.listeners_at + listeners * <uint64_t>sizeof(fr_board_listener)
        self.nodes_at = self.pools_at + pools * <uint64_t>sizeof(fr_board_pool)
        self.servers_at = self.nodes_at + nodes * <uint64_t>sizeof(fr_board_node)
        self.row_bytes = (self.servers_at + servers * <uint64_t>sizeof(fr_board_server) + 4095) & ~<uint64_t>4095
        self.orders_at = FR_BOARD_HEADER_BYTES
        self.health_at = (self.orders_at + servers * <uint64_t>sizeof(fr_board_order) + 4095) & ~<uint64_t>4095
        self.rows_at = (self.health_at + servers * <uint64_t>sizeof(fr_board_health) + 4095) & ~<uint64_t>4095
        self.size_bytes = self.rows_at + rows * self.row_bytes
        base = mmap(NULL, self.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise OSError(c_errno, f"{self.size_bytes} bytes for counters could not be mapped: {os.strerror(c_errno)}")
        self.base = <uint8_t *>base

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, <Py_ssize_t>self.size_bytes, 0, flags)

    cdef uint8_t *_row(self, uint32_t row) noexcept:
        return self.base + self.rows_at + row * self.row_bytes

    cdef uint64_t _offset(self, str kind, uint32_t column) except? 0xFFFFFFFFFFFFFFFF:
        """Of a cell within a row."""
        cdef uint32_t limit
        cdef uint64_t at, size
        if kind == "engine":
            limit, at, size = 1, sizeof(fr_board_row), FR_BOARD_ENGINE_BYTES
        elif kind == "listener":
            limit, at, size = self.listeners, self.listeners_at, sizeof(fr_board_listener)
        elif kind == "pool":
            limit, at, size = self.pools, self.pools_at, sizeof(fr_board_pool)
        elif kind == "node":
            limit, at, size = self.nodes, self.nodes_at, sizeof(fr_board_node)
        elif kind == "server":
            limit, at, size = self.servers, self.servers_at, sizeof(fr_board_server)
        else:
            raise UsageError(f"kind {kind!r}: accepted: engine, listener, pool, node, server")
        if column >= limit:
            raise UsageError(f"{kind} {column}: the board has {limit}")
        return at + column * size

    # ---- rows

    def take(self, uint32_t row, uint32_t pid):
        """Give a row to a process: its counters go on, its gauges start anew."""
        cdef fr_board_row *head
        cdef fr_board_server *server
        cdef uint32_t i
        if row >= self.rows:
            raise UsageError(f"row {row}: the board has {self.rows}")
        head = <fr_board_row *>self._row(row)
        fr_say32(&head.pid, 0)
        head.accepting, head.applied = 0, 0
        if row < self._header().rows_used:
            for i in range(self.listeners):
                (<fr_board_listener *>(self._row(row) + self.listeners_at))[i].open = 0
            for i in range(self.pools):
                memset((<fr_board_pool *>(self._row(row) + self.pools_at))[i].gauges, 0, FR_BOARD_POOL_GAUGES * sizeof(uint64_t))
            for i in range(self.nodes):
                memset((<fr_board_node *>(self._row(row) + self.nodes_at))[i].gauges, 0, FR_BOARD_NODE_GAUGES * sizeof(uint64_t))
            for i in range(min(self._header().servers_used, self.servers)):
                server = &(<fr_board_server *>(self._row(row) + self.servers_at))[i]
                server.in_flight, server.latency_ns, server.weight_effective, server.weight, server.state = 0, 0, 0, 0, 0
        else:
            fr_say32(&self._header().rows_used, row + 1)
        fr_say32(&head.pid, pid)

    def leave(self, uint32_t row):
        """The row's process is gone: its counts stay, its gauges count no more."""
        if row < self.rows:
            fr_say32(&(<fr_board_row *>self._row(row)).pid, 0)

    def row(self, uint32_t row):
        """One worker's part."""
        return Row(self, row)

    def workers(self):
        """(row, pid, accepting, applied version) of each row that has a process."""
        cdef uint32_t row, pid
        cdef fr_board_row *head
        cdef list found = []
        for row in range(fr_seen32(&self._header().rows_used)):
            head = <fr_board_row *>self._row(row)
            pid = fr_seen32(&head.pid)
            if pid:
                found.append((row, pid, bool(fr_seen32(&head.accepting)), fr_seen64(&head.applied)))
        return found

    # ---- header

    cdef fr_board_header *_header(self) noexcept:
        return <fr_board_header *>self.base

    @property
    def stopping(self):
        """The replica was told to stop."""
        return bool(fr_seen32(&self._header().stopping))

    @stopping.setter
    def stopping(self, bint value):
        fr_say32(&self._header().stopping, value)

    @property
    def servers_used(self):
        """Columns of servers that were given out."""
        return fr_seen32(&self._header().servers_used)

    @servers_used.setter
    def servers_used(self, uint32_t value):
        fr_say32(&self._header().servers_used, min(value, self.servers))

    def note_reload(self, bint ok, str text not None):
        """What a reload came to; one writer (the supervisor)."""
        cdef fr_board_header *header = self._header()
        cdef bytes raw = text.encode("utf-8", "replace")[:FR_BOARD_NOTE_BYTES]
        memcpy(header.note, <const char *>raw, len(raw))
        header.note_size = len(raw)
        if ok:
            header.reloads_ok += 1
        else:
            header.reloads_refused += 1
        fr_next64(&header.reloads)

    def reloads(self):
        """(attempts that are over, of these done, refused, what the last one came to)."""
        cdef fr_board_header *header = self._header()
        cdef uint64_t over = fr_seen64(&header.reloads)
        cdef bytes raw = header.note[:min(header.note_size, <uint64_t>FR_BOARD_NOTE_BYTES)]
        return over, header.reloads_ok, header.reloads_refused, raw.decode("utf-8", "replace")

    # ---- orders

    @property
    def version(self):
        """Grows with every order."""
        return fr_seen64(&self._header().version)

    def order(self, uint32_t column):
        """(word, given at, ms) of a server's order; 0 and 0 where none was given."""
        cdef fr_board_order *order
        if column >= self.servers:
            raise UsageError(f"server {column}: the board has {self.servers}")
        order = &(<fr_board_order *>(self.base + self.orders_at))[column]
        return fr_seen64(&order.word), fr_seen64(&order.given_ms)

    def give_order(self, uint32_t column, uint64_t word, uint64_t given_ms):
        """Store an order in one store and let the workers know; the version that tells who follows it."""
        cdef fr_board_order *order
        if column >= self.servers:
            raise UsageError(f"server {column}: the board has {self.servers}")
        order = &(<fr_board_order *>(self.base + self.orders_at))[column]
        fr_say64(&order.given_ms, given_ms)
        fr_say64(&order.word, word)
        return fr_next64(&self._header().version)

    def raise_version(self):
        """Let the workers know that something else than an order changed; the version that tells who follows it."""
        return fr_next64(&self._header().version)

    # ---- the keeper, and what it says

    @property
    def name(self):
        """The replica's name among the fleet's."""
        cdef fr_board_header *header = self._header()
        return header.name[:FR_BOARD_NAME_BYTES].split(b"\0", 1)[0].decode("ascii", "replace")

    @name.setter
    def name(self, str value not None):
        cdef bytes raw = value.encode("ascii")
        if not 0 < len(raw) < FR_BOARD_NAME_BYTES:
            raise UsageError(f"name {value!r}: accepted are 1 to {FR_BOARD_NAME_BYTES - 1} characters")
        memset(self._header().name, 0, FR_BOARD_NAME_BYTES)
        memcpy(self._header().name, <const char *>raw, len(raw))

    def keep(self, uint32_t pid, uint64_t now_ms, uint32_t lease_ms):
        """Is this process the replica's keeper? It becomes so where there is none, and where the one that there is has
        no row any more or has not said so for `lease_ms`; a keeper says so with each call.

        Args:
            pid: of the caller, which has a row.
            now_ms: of the monotonic clock.
        """
        cdef fr_board_header *header = self._header()
        cdef uint64_t seen = fr_seen64(&header.keeper), own = <uint64_t>pid << 32 | (now_ms & 0xFFFFFFFF)
        cdef uint32_t owner = <uint32_t>(seen >> 32), age_ms = <uint32_t>now_ms - <uint32_t>seen
        if owner != pid and owner and age_ms < lease_ms and self._has_row(owner):
            return False
        return bool(fr_swap64(&header.keeper, seen, own))

    def keeps(self, uint32_t pid):
        """Was this process the keeper when it last said so, and nobody has taken over?"""
        return fr_seen64(&self._header().keeper) >> 32 == pid

    def end_keeping(self, uint32_t pid):
        """This process is the keeper no longer; another may be at once."""
        cdef uint64_t seen = fr_seen64(&self._header().keeper)
        if seen >> 32 == pid:
            fr_swap64(&self._header().keeper, seen, 0)

    cdef bint _has_row(self, uint32_t pid) noexcept:
        cdef uint32_t row
        for row in range(fr_seen32(&self._header().rows_used)):
            if fr_seen32(&(<fr_board_row *>self._row(row)).pid) == pid:
                return True
        return False

    cdef fr_board_health *_health(self, uint32_t column) except NULL:
        if column >= self.servers:
            raise UsageError(f"server {column}: the board has {self.servers}")
        return &(<fr_board_health *>(self.base + self.health_at))[column]

    def verdict(self, uint32_t column):
        """What holds for a server, as a word; 0: health says nothing."""
        return fr_seen64(&self._health(column).word)

    def give_verdict(self, uint32_t column, uint64_t word):
        """Say what holds for a server and let the workers know; the version that tells who follows it."""
        cdef fr_board_health *health = self._health(column)
        if fr_seen64(&health.word) == word:
            return self.version
        health.flips += 1
        fr_say64(&health.word, word)
        return fr_next64(&self._header().version)

    def note_check(self, uint32_t column, uint64_t checked_ms, uint64_t latency_ns, str tells not None, *, bint own, bint ok):
        """Write down a check of a server; the keeper's.

        Args:
            tells: what it came to, cut at TELLS_BYTES_MAX bytes.
            own: made by this replica, and counted.
        """
        cdef fr_board_health *health = self._health(column)
        cdef bytes raw = tells.encode("utf-8", "replace")[:FR_BOARD_TELLS_BYTES]
        fr_say64(&health.sequence, health.sequence | 1)
        fr_fence()
        health.checked_ms, health.latency_ns, health.tells_size = checked_ms, latency_ns, len(raw)
        memcpy(health.tells, <const char *>raw, len(raw))
        health.checks += own
        health.failed += own and not ok
        fr_say64(&health.sequence, (health.sequence | 1) + 1)

    def check_of(self, uint32_t column):
        """(word, checked at, ms, latency_ns, checks by this replica, of these failed, flips, what the last came to)."""
        cdef fr_board_health *health = self._health(column)
        cdef fr_board_health copy
        cdef uint64_t before
        cdef int i
        for i in range(TELLS_TRIES):
            before = fr_seen64(&health.sequence)
            copy = health[0]
            fr_fence()
            if not before & 1 and fr_seen64(&health.sequence) == before:
                break
        raw = copy.tells[:min(copy.tells_size, <uint64_t>FR_BOARD_TELLS_BYTES)]
        return (fr_seen64(&health.word), copy.checked_ms, copy.latency_ns, copy.checks, copy.failed, copy.flips,
                raw.decode("utf-8", "replace"))

    # ---- reading

    def sum_words(self, str kind not None, uint32_t column, uint32_t first=0, uint32_t count=1, bint living=False):
        """Sums over rows of `count` 64-bit words of a cell, from word `first` on.

        Args:
            living: only rows that have a process: for gauges.
        """
        cdef uint64_t at = self._offset(kind, column) + 8 * first
        cdef uint32_t row, i
        cdef uint64_t *words
        cdef uint64_t[128] sums
        if count > 128 or at + 8 * count > self.row_bytes:
            raise UsageError(f"{count} words from {first} on: accepted are up to 128 within the cell")
        memset(sums, 0, count * sizeof(uint64_t))
        for row in range(fr_seen32(&self._header().rows_used)):
            if living and not fr_seen32(&(<fr_board_row *>self._row(row)).pid):
                continue
            words = <uint64_t *>(self._row(row) + at)
            for i in range(count):
                sums[i] += fr_seen64(&words[i])
        return [sums[i] for i in range(count)]

    def words_by_row(self, str kind not None, uint32_t column, uint32_t first=0, uint32_t count=1):
        """The same words of each row that has a process, by themselves: [(row, [word, ...]), ...]."""
        cdef uint64_t at = self._offset(kind, column) + 8 * first
        cdef uint32_t row, i
        cdef uint64_t *words
        if at + 8 * count > self.row_bytes:
            raise UsageError(f"{count} words from {first} on: there are fewer")
        found = []
        for row in range(fr_seen32(&self._header().rows_used)):
            if fr_seen32(&(<fr_board_row *>self._row(row)).pid):
                words = <uint64_t *>(self._row(row) + at)
                found.append((row, [fr_seen64(&words[i]) for i in range(count)]))
        return found

    def server_sums(self, columns):
        """What all workers say of servers.

        Returns:
            For each column (responses by class, requests, failures, flips by state, in flight, latency_ns, weight,
            weight_effective, workers by state). Latency: the mean of the workers that measured one, else 0.
        """
        cdef uint32_t row, column, used = fr_seen32(&self._header().rows_used), i, measured, weight
        cdef fr_board_server *cell
        cdef uint64_t[6] responses
        cdef uint64_t[5] flips
        cdef uint32_t[5] states
        cdef uint64_t requests, failures, latency_ns
        cdef int64_t in_flight
        cdef double weight_effective
        cdef list found = []
        for column in columns:
            if column >= self.servers:
                raise UsageError(f"server {column}: the board has {self.servers}")
            memset(responses, 0, sizeof(responses))
            memset(flips, 0, sizeof(flips))
            memset(states, 0, sizeof(states))
            requests = failures = latency_ns = 0
            in_flight, weight, weight_effective, measured = 0, 0, 0.0, 0
            for row in range(used):
                cell = &(<fr_board_server *>(self._row(row) + self.servers_at))[column]
                for i in range(6):
                    responses[i] += fr_seen64(&cell.responses[i])
                for i in range(<uint32_t>FR_BOARD_STATES):
                    flips[i] += fr_seen32(&cell.flips[i])
                requests += fr_seen64(&cell.requests)
                failures += fr_seen64(&cell.failures)
                if fr_seen32(&(<fr_board_row *>self._row(row)).pid) and cell.state:
                    in_flight += cell.in_flight
                    if 1 <= cell.state <= FR_BOARD_STATES:
                        states[cell.state - 1] += 1
                    weight, weight_effective = cell.weight, cell.weight_effective
                    if cell.latency_ns:
                        latency_ns += cell.latency_ns
                        measured += 1
            found.append((
                (responses[0], responses[1], responses[2], responses[3], responses[4], responses[5]), requests, failures,
                (flips[0], flips[1], flips[2], flips[3], flips[4]), max(in_flight, 0),
                latency_ns // measured if measured else 0, weight, weight_effective,
                (states[0], states[1], states[2], states[3], states[4]),
            ))
        return found


cdef class Row:
    """One worker's part of a board."""

    def __init__(self, Board board not None, uint32_t index):
        if index >= board.rows:
            raise UsageError(f"row {index}: the board has {board.rows}")
        self.board, self.index, self.at = board, index, board._row(index)

    cdef void *engine(self) noexcept:
        return self.at + sizeof(fr_board_row)

    cdef fr_board_listener *listener(self, uint32_t column) noexcept:
        return &(<fr_board_listener *>(self.at + self.board.listeners_at))[min(column, self.board.listeners - 1)]

    cdef fr_board_pool *pool(self, uint32_t column) noexcept:
        return &(<fr_board_pool *>(self.at + self.board.pools_at))[min(column, self.board.pools - 1)]

    cdef fr_board_server *server(self, uint32_t column) noexcept:
        return &(<fr_board_server *>(self.at + self.board.servers_at))[min(column, self.board.servers - 1)]

    def words(self, str kind not None, uint32_t column):
        """A cell as a memoryview of unsigned 64-bit words."""
        cdef uint64_t at = self.board.rows_at + self.index * self.board.row_bytes + self.board._offset(kind, column)
        cdef uint64_t size = {"engine": FR_BOARD_ENGINE_BYTES, "listener": sizeof(fr_board_listener), "pool": sizeof(fr_board_pool),
                              "node": sizeof(fr_board_node), "server": sizeof(fr_board_server)}[kind]
        return memoryview(self.board)[at:at + size].cast("Q")

    def accept(self, bint accepting):
        """This worker's listeners accept, or no longer."""
        fr_say32(&(<fr_board_row *>self.at).accepting, accepting)

    def follow(self, uint64_t version):
        """This worker follows the orders up to this version."""
        fr_say64(&(<fr_board_row *>self.at).applied, version)


cdef class Tally:
    """Where one worker counts the requests of one pool.

    Args:
        row: the worker's.
        column: the pool's.
        columns: server's name -> its column.
        other: column of every other name.
    """

    def __init__(self, Row row not None, uint32_t column, dict columns not None, uint32_t other=0):
        if column >= row.board.pools or other >= row.board.servers:
            raise UsageError(f"pool {column}, server {other}: the board has {row.board.pools} and {row.board.servers}")
        self.row, self.column, self.columns, self.other = row, column, columns, other

    cdef fr_board_pool *pool_cell(self) noexcept:
        return self.row.pool(self.column)

    cdef fr_board_server *server_cell(self, object name) noexcept:
        column = self.columns.get(name)
        return self.row.server(self.other if column is None else <uint32_t>column)

    def publish(self, Pool pool not None):
        """Write what the pool says of its servers: state, weights, latency; and count the changes that health made.

        Notes: some 0.2 us per server; holds the GIL.
        """
        cdef fr_board_server *cell
        cdef uint32_t state
        cdef int slot
        for server in pool._servers:
            slot = pool._table.slot_of[server.name]
            cell = self.server_cell(server.name)
            state = <uint32_t>pool._states[server.name]
            if (cell.state and cell.state != state + 1 and state < FR_BOARD_STATES
                    and (cell.state > STATE_DOWN or state >= STATE_DOWN)):
                cell.flips[state] += 1
            cell.state = state + 1
            cell.weight = server.weight
            cell.weight_effective = pool._policies.weight_of(slot, server.weight)
            cell.latency_ns = pool._table.counters[slot].latency_ewma_ns
