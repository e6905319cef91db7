"""zone: one shared-memory segment per machine and zone name, or a private one.

Not here: what the memory holds (ext/fr_zone.h), the affinity table (affinity_table.pyx). This file names, creates, checks,
maps and unmaps the segment, and asks its directory.

A segment is the file /dev/shm/fastroute.<layout>.<uid>.<name>, mode 0600. It is created without a name, reserved whole
(posix_fallocate: a full /dev/shm is an error now, not a SIGBUS later), filled, and only then linked, so that whoever
finds it finds it complete; of two creators one links and the other attaches. Who attaches checks owner, permissions,
layout, size and identity, and refuses a mismatch with a message that says what to do.

Fork: the mapping is shared with children, and a child may go on using its parent's zone object. Locks belong to threads:
a child owns none of its parent's. A private zone is copied by a fork: parent and child no longer share it.
"""
import errno
import os
import stat
import struct
import warnings
import weakref
from typing import NamedTuple

cimport cython
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from fastroute._core.base cimport fr_clock, fr_now_tick
from fastroute._core.hashes cimport fr_fingerprint
from fastroute._core.kill_points cimport kill_point_arm, kill_point_count

from fastroute.errors import ConfigError, UsageError
from fastroute.model import check_name, parse_size_bytes

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    enum: MAP_PRIVATE
    enum: MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t size)

cdef extern from *:
    """
    #include <sys/mman.h>
    /* Huge pages where the system grants them; page tables of a shared zone filled now, so that requests take no faults. */
    static void fr_advise_mapping(void *base, size_t size, int populate)
    {
    #ifdef MADV_HUGEPAGE
        (void)madvise(base, size, MADV_HUGEPAGE);
    #endif
    #ifdef MADV_POPULATE_WRITE
        if (populate)
            (void)madvise(base, size, MADV_POPULATE_WRITE);
    #endif
    }
    """
    void fr_advise_mapping(void *base, size_t size, int populate) nogil

cdef extern from "fr_shm.h" nogil:
    enum: FR_SHM_ROBUST

cdef extern from "fr_zone.h" nogil:
    const uint64_t FR_ZONE_MAGIC
    const uint64_t FR_ZONE_BYTES_MAX
    enum: FR_ZONE_LAYOUT
    const uint32_t FR_LOCK_KIND
    enum: FR_ZONE_IDENTITY_BYTES
    enum: FR_ZONE_BYTES_MIN
    enum: FR_POOL_ENTRIES
    enum: FR_ENTRY_SERVER
    enum: FR_ENTRY_POOL
    enum: FR_DIRECTORY_FULL
    enum: FR_DIRECTORY_BUSY
    ctypedef struct fr_server_entry:
        uint16_t slot
    ctypedef struct fr_pool_entry:
        uint64_t cursor
    ctypedef struct fr_stripe:
        uint64_t evictions
        uint64_t lost
        uint64_t repairs
    int fr_zone_plan_of(uint64_t size_bytes, fr_zone_plan *plan) noexcept
    void fr_zone_view(fr_zone *zone, void *base, const fr_zone_plan *plan) noexcept
    int fr_zone_create(fr_zone *zone, const uint8_t *identity) noexcept
    fr_server_entry *fr_zone_servers(const fr_zone *zone) noexcept
    fr_pool_entry *fr_zone_pools(const fr_zone *zone) noexcept
    fr_fingerprint fr_directory_digest(int kind, const void *names, size_t size) noexcept
    int fr_directory_enter(fr_zone *zone, int kind, const fr_fingerprint *digest) noexcept

cdef extern from "fr_bucket.h" nogil:
    enum: FR_BUCKET_CELLS
    ctypedef struct fr_binding:
        uint64_t term
    void fr_table_view(fr_table *table, const fr_zone *zone, uint64_t *blocked_until_ms) noexcept
    uint64_t fr_table_capacity(const fr_zone_plan *plan) noexcept
    uint64_t fr_table_bucket_count(const fr_zone_plan *plan) noexcept
    int fr_aff_bucket_records(const fr_table *table, uint32_t index, uint32_t now_tick, fr_fingerprint *keys,
                              fr_binding *bindings) noexcept

cdef extern from "fr_zone_loads.h" nogil:
    const fr_load_process *fr_zone_processes(const fr_zone *zone) noexcept
    int32_t *fr_zone_load_row(const fr_zone *zone, uint32_t row) noexcept
    uint64_t fr_pid_namespace() noexcept
    int fr_loads_enter(fr_zone *zone) noexcept
    void fr_loads_leave(fr_zone *zone, int row) noexcept
    void fr_loads_look(fr_zone *zone, int own_row, uint32_t *next_row, uint64_t own_namespace, uint64_t now_ms) noexcept
    int fr_loads_reap(fr_zone *zone, uint32_t row, uint64_t own_namespace) noexcept

cdef extern from *:
    """
    static fr_stripe *fr_stripe_of(const fr_zone *zone, uint32_t i)
    {
        return (fr_stripe *)(zone->base + zone->plan.stripes_at) + i;
    }
    static uint64_t fr_load64(const uint64_t *p) { return FR_GET(p); }
    static uint32_t fr_load32(const uint32_t *p) { return FR_GET(p); }
    """
    fr_stripe *fr_stripe_of(const fr_zone *zone, uint32_t i) noexcept nogil
    uint64_t fr_load64(const uint64_t *p) noexcept nogil
    uint32_t fr_load32(const uint32_t *p) noexcept nogil

__all__ = ["LAYOUT", "Zone", "ZoneStatistics", "arm_kill_point", "kill_points_passed"]

LAYOUT = FR_ZONE_LAYOUT
"""Version of the segment's layout; part of its file name."""

DIRECTORY = "/dev/shm"
"""Where segments live."""

SAMPLE_BUCKETS = 2048
"""Buckets that statistics() looks at; more are estimated from these."""

CREATE_ATTEMPTS_MAX = 16
"""Rounds of "open, else create" before giving up: one suffices unless others keep unlinking the segment."""

_open_zones = weakref.WeakSet()
"""Those with a row of loads: a forked child needs a row of its own."""


def _after_fork():
    for zone in tuple(_open_zones):
        (<Zone>zone)._leave_parent()


os.register_at_fork(after_in_child=_after_fork)

_HEADER = struct.Struct("<QIIQ16s")


class ZoneStatistics(NamedTuple):
    """What a zone holds and what happened to it, over all its processes unless said otherwise."""

    live_records: int       # estimated from a sample where the table is large
    capacity: int           # live records below which none is lost
    evictions: int          # live records that gave way to others
    lost: int               # of these, bound ones (not of keys seen once)
    repairs: int            # locks taken over from processes that died inside
    busy_reads: int         # lookups of this process that found a bucket held
    busy_writes: int        # writes of this process that found a lock held
    servers: int            # directory entries
    pools: int


cdef str _mib(uint64_t size_bytes):
    return f"{<double>size_bytes / 1048576.0:.1f} MiB"


cdef bytes _joined(tuple names):
    cdef list parts = []
    for name in names:
        raw = name.encode("utf-8", "surrogatepass")
        parts.append(struct.pack("<I", len(raw)))
        parts.append(raw)
    return b"".join(parts)


@cython.final
cdef class Zone:
    """Memory that the processes of one machine share: server directory, round-robin cursors, affinity table.

    Args:
        name: 1-64 characters of A-Za-z0-9._:- ; every process of this user that opens the name shares the zone. None: a
            private zone of this process.
        size: bytes, or "64MiB"; the same in every process. 256 KiB to 64 GiB.
        identity: 16-byte digest of what keys the fingerprints (the identity secret), the same in every process; None for
            sixteen zeros.
        directory: where the segment's file lives.

    Raises:
        UsageError: an argument that is not accepted.
        ConfigError: no room for the zone, or a segment of that name that does not fit: another size, identity, layout,
            owner or permissions. Nothing was changed.

    Notes:
        Where robust process-shared locks are missing (not Linux) every zone is private, `shared` is False and a
        RuntimeWarning says so.
    """

    def __cinit__(self, name="fr", size="64MiB", identity=None, *, directory=DIRECTORY):
        cdef fr_zone_plan plan
        cdef bytes digest = b"\0" * FR_ZONE_IDENTITY_BYTES if identity is None else identity
        if name is not None:
            check_name("zone", name)
        if len(digest) != FR_ZONE_IDENTITY_BYTES:
            raise UsageError(f"zone identity of {len(digest)} bytes: accepted are {FR_ZONE_IDENTITY_BYTES}")
        self.name = name
        self.load_row = -1
        size_bytes = parse_size_bytes(size, name="zone size")
        if not FR_ZONE_BYTES_MIN <= size_bytes <= FR_ZONE_BYTES_MAX:
            raise UsageError(f"zone size {size!r}: accepted are 256KiB to 64GiB")
        self.size_bytes = size_bytes
        fr_zone_plan_of(self.size_bytes, &plan)
        self.blocked_until_ms = <uint64_t *>calloc(plan.stripes, sizeof(uint64_t))
        if self.blocked_until_ms == NULL:
            raise MemoryError()
        if name is not None and not FR_SHM_ROBUST:
            warnings.warn(f"zone {name!r} is private to this process: this system has no robust process-shared locks",
                          RuntimeWarning, stacklevel=2)
        self.shared = name is not None and FR_SHM_ROBUST
        if not self.shared:
            self._map(-1, &plan)
            self._create(digest)
        else:
            self.path = os.path.join(directory, f"fastroute.{FR_ZONE_LAYOUT}.{os.geteuid()}.{name}")
            self._open_shared(digest, &plan)
        fr_table_view(&self.table, &self.view, self.blocked_until_ms)

    def __dealloc__(self):
        self.unmap()
        free(self.blocked_until_ms)
        free(self.own_loads)

    # ---- opening

    cdef int _map(self, int fd, const fr_zone_plan *plan) except -1:
        cdef void *base
        cdef size_t size = self.size_bytes
        cdef int flags = MAP_SHARED if fd >= 0 else MAP_PRIVATE | MAP_ANONYMOUS
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0)
        if base == MAP_FAILED:
            raise ConfigError(f"zone {self.name!r}: {_mib(size)} could not be mapped: {os.strerror(c_errno)}")
        with nogil:
            fr_advise_mapping(base, size, fd >= 0)
        fr_zone_view(&self.view, base, plan)
        return 0

    cdef int _create(self, bytes digest) except -1:
        cdef int error = fr_zone_create(&self.view, <const uint8_t *><const char *>digest)
        if error:
            raise ConfigError(f"zone {self.name!r}: its locks could not be made: {os.strerror(error)}")
        return 0

    cdef int _open_shared(self, bytes digest, const fr_zone_plan *plan) except -1:
        cdef int fd
        directory, entry = os.path.split(self.path)
        try:
            directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"zone {self.name!r}: {directory} cannot be used: {error.strerror}; a shared zone needs a "
                              "tmpfs there") from None
        try:
            for _ in range(CREATE_ATTEMPTS_MAX):
                fd = self._open_existing(entry, directory_fd)
                if fd >= 0:
                    try:
                        self._check(fd, digest)
                        self._map(fd, plan)
                    finally:
                        os.close(fd)
                    return 0
                if self._create_linked(entry, directory_fd, digest, plan, True):
                    return 0
        finally:
            os.close(directory_fd)
        raise ConfigError(f"zone {self.name!r}: {self.path} keeps appearing and disappearing; stop what removes it")

    def _open_existing(self, entry, directory_fd):
        """Descriptor of the segment, -1 when there is none."""
        try:
            return os.open(entry, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
        except FileNotFoundError:
            return -1
        except OSError as error:
            what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
            raise ConfigError(f"zone {self.name!r}: {self.path} {what}; remove it: rm {self.path}") from None

    def _check(self, int fd, bytes digest):
        """Refuse a segment that is not ours, or not what was asked for."""
        facts = os.fstat(fd)
        found = None
        if not stat.S_ISREG(facts.st_mode):
            found = "is not a regular file"
        elif facts.st_uid != os.geteuid():
            found = f"belongs to user {facts.st_uid}, this process is user {os.geteuid()}"
        elif facts.st_mode & 0o077:
            found = f"has permissions {stat.S_IMODE(facts.st_mode):o}, only the owner may have any (600)"
        else:
            raw = os.pread(fd, _HEADER.size, 0)
            magic, layout, lock_kind, size, made_for = _HEADER.unpack(raw.ljust(_HEADER.size, b"\0"))
            if magic != FR_ZONE_MAGIC or layout != FR_ZONE_LAYOUT:
                found = "is not a zone of this layout"
            elif lock_kind != FR_LOCK_KIND:
                found = f"was made with another C library or word size (locks of kind {lock_kind:#x}, here {FR_LOCK_KIND:#x})"
            elif facts.st_size != size:
                found = f"is cut to {facts.st_size} of its {size} bytes"
            elif size != self.size_bytes:
                found = f"has {_mib(size)} ({size} bytes), asked for were {_mib(self.size_bytes)} ({self.size_bytes})"
            elif made_for != digest:
                found = "was made with another identity secret"
        if found:
            raise ConfigError(f"zone {self.name!r}: {self.path} {found}. Give every process of this machine the same "
                              f"settings, or another zone name; when no process uses it any more, remove it: rm {self.path}")

    cdef int _create_linked(self, str entry, int directory_fd, bytes digest, const fr_zone_plan *plan,
                            bint unnamed) except -1:
        """1: created, mapped and linked. 0: somebody else was first.

        unnamed: with a file that has no name until it is linked, so that a creator that dies leaves nothing behind; where
        the file system or a missing /proc forbids that, under a name that nobody else uses.
        """
        cdef int fd
        directory = os.path.dirname(self.path)
        temporary = None
        space = os.fstatvfs(directory_fd)
        if space.f_blocks and space.f_bavail * space.f_frsize < self.size_bytes:
            raise self._no_room(directory, space.f_bavail * space.f_frsize)
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            if unnamed:
                fd = os.open(directory, flags | os.O_TMPFILE, 0o600)
            else:
                temporary = f"{entry}.{os.getpid()}.{os.urandom(8).hex()}"
                fd = os.open(temporary, flags | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory_fd)
        except OSError as error:
            if unnamed:
                return self._create_linked(entry, directory_fd, digest, plan, False)
            raise ConfigError(f"zone {self.name!r}: {self.path} could not be created: {error.strerror}") from None
        try:
            os.fchmod(fd, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                    raise ConfigError(f"zone {self.name!r}: {_mib(self.size_bytes)} could not be reserved in {directory}: "
                                      f"{error.strerror}") from None
                space = os.fstatvfs(directory_fd)
                raise self._no_room(directory, space.f_bavail * space.f_frsize) from None
            self._map(fd, plan)
            try:
                self._create(digest)
                source = temporary if temporary is not None else f"/proc/self/fd/{fd}"
                os.link(source, entry, src_dir_fd=directory_fd, dst_dir_fd=directory_fd,
                        follow_symlinks=temporary is None)
            except FileExistsError:
                self.unmap()
                return 0
            except OSError as error:
                self.unmap()
                if unnamed:
                    return self._create_linked(entry, directory_fd, digest, plan, False)
                raise ConfigError(f"zone {self.name!r}: {self.path} could not be created: {error.strerror}") from None
            return 1
        finally:
            os.close(fd)
            if temporary is not None:
                os.unlink(temporary, dir_fd=directory_fd)

    def _no_room(self, directory, free_bytes):
        old = self._earlier_layouts(directory)
        found = f" ({' '.join(old)} of other versions of fastroute are there too: when none of them runs any more, remove them)" if old else ""
        return ConfigError(
            f"zone {self.name!r} needs {_mib(self.size_bytes)} in {directory}, {_mib(free_bytes)} are free{found}: make it larger "
            f"(docker run --shm-size={(self.size_bytes >> 20) + 64}m; Kubernetes: an emptyDir with medium: Memory mounted "
            f"there; else mount -o remount,size=... {directory}), or ask for a smaller zone")

    def _earlier_layouts(self, directory):
        """Paths of this user's zones of this name that other versions left, or still use."""
        end = f".{os.geteuid()}.{self.name}"
        try:
            entries = os.listdir(directory)
        except OSError:
            return []
        return sorted(os.path.join(directory, entry) for entry in entries
                      if entry.startswith("fastroute.") and entry.endswith(end)
                      and entry[len("fastroute."):-len(end)].isdecimal() and os.path.join(directory, entry) != self.path)

    # ---- closing

    cdef void unmap(self) noexcept:
        if self.view.base != NULL:
            fr_loads_leave(&self.view, self.load_row)
            self.load_row = -1
            munmap(self.view.base, self.size_bytes)
            self.view.base = NULL

    cdef int pin(self) except -1:
        self._require_open()
        self.pins += 1
        return 0

    cdef void unpin(self) noexcept:
        self.pins -= 1
        if self.closed and self.pins == 0:
            self.unmap()

    def _require_open(self):
        if self.closed:
            raise UsageError(f"zone {self.name!r} is closed")

    def close(self):
        """Leave the zone; others go on using it, and its contents stay. Closing twice is fine.

        Notes: the mapping goes with the last affinity table or cursor of this object.
        """
        if not self.closed:
            self.closed = True
            if self.pins == 0:
                self.unmap()

    def __enter__(self):
        self._require_open()
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<Zone {self.name!r} of {_mib(self.size_bytes)}{', closed' if self.closed else ''}>"

    @staticmethod
    def unlink(name, *, directory=DIRECTORY):
        """Remove this user's zone of that name: processes that have it open keep it, the next to open makes a new one.

        Returns: whether there was one. Raises UsageError for a name that is not accepted.
        """
        check_name("zone", name)
        try:
            os.unlink(os.path.join(directory, f"fastroute.{FR_ZONE_LAYOUT}.{os.geteuid()}.{name}"))
        except FileNotFoundError:
            return False
        return True

    # ---- directory

    cdef int _enter(self, int kind, tuple names) except -1:
        cdef fr_fingerprint digest
        cdef int index
        self._require_open()
        joined = _joined(names)
        digest = fr_directory_digest(kind, <const char *>joined, len(joined))
        with nogil:
            index = fr_directory_enter(&self.view, kind, &digest)
        if index == FR_DIRECTORY_FULL:
            if kind == FR_ENTRY_SERVER:
                raise UsageError(
                    f"zone {self.name!r}: its directory of {self.view.plan.server_entries} servers is full and server "
                    f"{names[2]!r} of pool {names[1]!r} is not in it: servers are never forgotten, so start over with a new "
                    "zone name, or use a larger zone (one server per 4 KiB, up to 32768)")
            raise UsageError(f"zone {self.name!r}: its directory of {FR_POOL_ENTRIES} pools is full and pool {names[1]!r} is "
                             "not in it: use another zone name for some of the fleets")
        if index == FR_DIRECTORY_BUSY:
            raise UsageError(f"zone {self.name!r}: a stopped process holds its directory; let it go on (kill -CONT) or kill "
                             "it, and try again")
        return index

    cpdef int server_slot(self, str fleet, str pool, str server) except -1:
        """Slot of a server in this zone, the same for all its processes and for good; made at first sight.

        Raises:
            UsageError: the directory is full, a stopped process holds it, or the zone is closed.

        Notes: O(1), lock-free once the server is known; waits at most 0.1 s for other writers.
        """
        return fr_zone_servers(&self.view)[self._enter(FR_ENTRY_SERVER, (fleet, pool, server))].slot

    cdef uint64_t *pool_cursor(self, str fleet, str pool) except NULL:
        cdef int index = self._enter(FR_ENTRY_POOL, (fleet, pool))
        self.pins += 1                  # never given back: the address is good as long as this object
        return &fr_zone_pools(&self.view)[index].cursor

    def cursor_address(self, str fleet, str pool):
        """Address of the pool's shared 64-bit cursor, for atomic adds; good as long as this object.

        Raises:
            UsageError: 256 pools are there already, a stopped process holds the directory, or the zone is closed.
        """
        return <uint64_t><size_t>self.pool_cursor(fleet, pool)

    cdef uint32_t pool_column(self, str fleet, str pool) except? 0xFFFFFFFF:
        return self.view.plan.server_entries + <uint32_t>self._enter(FR_ENTRY_POOL, (fleet, pool))

    # ---- loads

    cdef fr_loads *join_loads(self) except NULL:
        self._require_open()
        if self.loads.own == NULL:
            self.pid_namespace = fr_pid_namespace()
            self._take_row()
            self.pins += 1              # never given back: the address is good as long as this object
            _open_zones.add(self)
        return &self.loads

    cdef int _take_row(self) except -1:
        self.loads.words = self.view.plan.load_words
        with nogil:
            self.load_row = fr_loads_enter(&self.view)
        if self.load_row < 0:
            # All rows are taken: this process counts for itself.
            if self.own_loads == NULL:
                self.own_loads = <int32_t *>calloc(self.loads.words, sizeof(int32_t))
                if self.own_loads == NULL:
                    raise MemoryError("no memory for the loads of a zone")
            self.loads.processes, self.loads.row_count, self.loads.own = NULL, 1, self.own_loads
            warnings.warn(f"zone {self.name!r}: all {self.view.plan.load_rows} rows of loads belong to other processes; this "
                          "one balances by its own requests alone. A larger zone has more rows.", RuntimeWarning, stacklevel=3)
        else:
            self.loads.processes, self.loads.row_count = fr_zone_processes(&self.view), self.view.plan.load_rows
            self.loads.rows, self.loads.own = fr_zone_load_row(&self.view, 0), fr_zone_load_row(&self.view, <uint32_t>self.load_row)
        return 0

    def _leave_parent(self):
        # In a forked child: the row is the parent's.
        if self.view.base != NULL and self.loads.own != NULL:
            self.load_row = -1
            free(self.own_loads)
            self.own_loads = NULL
            self._take_row()

    cdef void look(self, uint64_t now_ms) noexcept:
        self.looked_ms = now_ms
        if self.view.base != NULL:
            fr_loads_look(&self.view, self.load_row, &self.look_next, self.pid_namespace, now_ms)

    def reap(self):
        """Give up the loads of processes that are gone, now; how many there were. Picks do it in time by themselves."""
        cdef uint32_t row, found = 0
        self._require_open()
        for row in range(self.view.plan.load_rows):
            if <int>row != self.load_row:
                found += fr_loads_reap(&self.view, row, self.pid_namespace if self.pid_namespace else fr_pid_namespace())
        return found

    # ---- looking

    @property
    def capacity(self):
        """Live affinity records below which none is lost."""
        return fr_table_capacity(&self.view.plan)

    def statistics(self, now_tick=None):
        """Counts of this zone.

        Args:
            now_tick: the time in ticks of 64 ms, for what counts as live; None for now.

        Notes: reads at most 2,048 buckets and every stripe; about a millisecond at 64 MiB.
        """
        cdef uint64_t evictions = 0, lost = 0, repairs, live = 0, count
        cdef uint64_t seen = 0, i, wanted
        cdef uint32_t tick
        cdef int found
        cdef fr_clock clock
        cdef fr_fingerprint[24] keys
        cdef fr_binding[24] bindings
        cdef fr_stripe *stripe
        self._require_open()
        clock.manual_ms = 0
        tick = fr_now_tick(&clock) if now_tick is None else now_tick
        repairs = fr_load64(&self.view.header.repairs)
        for i in range(self.view.plan.stripes):
            stripe = fr_stripe_of(&self.view, i)
            evictions += fr_load64(&stripe.evictions)
            lost += fr_load64(&stripe.lost)
            repairs += fr_load64(&stripe.repairs)
        count = fr_table_bucket_count(&self.view.plan)
        wanted = min(count, SAMPLE_BUCKETS)
        for i in range(wanted):
            found = fr_aff_bucket_records(&self.table, i * count // wanted, tick, keys, bindings)
            if found >= 0:
                live += found
                seen += 1
        return ZoneStatistics(
            live_records=live * count // seen if seen else 0, capacity=self.capacity, evictions=evictions, lost=lost,
            repairs=repairs, busy_reads=fr_load64(&self.table.busy_reads), busy_writes=fr_load64(&self.table.busy_writes),
            servers=fr_load32(&self.view.header.server_count), pools=fr_load32(&self.view.header.pool_count))


def arm_kill_point(n, action="kill"):
    """For tests: act on this process at the n-th store from now of the directory's write path.

    Args:
        n: 1 is the next store; 0 only counts.
        action: "kill" (SIGKILL), "stop" (SIGSTOP), or "off" to count no more.
    """
    kill_point_arm(n, action)


def kill_points_passed():
    """Stores of the directory's write path since arm_kill_point, in this process."""
    return kill_point_count()
