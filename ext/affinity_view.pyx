"""One pool's view of the affinity table: keys become fingerprints, the zone's slots become the pool's.

What it is: the near tier of the agreement. `near` answers from shared memory in one lookup; the other methods are the
steps that `fastroute.affinity` takes there (claim, learn, replace, touch, remove), each atomic over all processes.
What it is not: the store, or a decision about moves; it says what stands and whether that may be used.

Rules of this file:
  * A record counts only while its server is one of this pool and may take bound requests; else near() says MISS.
  * With a store, an entry is trusted for near_ttl after the store confirmed it (bounded staleness), or for as long as
    the push channel watches it (ext/fr_push.h), or for as long as the store is known to be away (trust_stale).
  * What was read from the store is watched only if a guard was taken before the reading: see guard() and expect().
  * Without one, the zone is the agreement: first writer wins, and a hit slides the idle expiry here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastroute._core.affinity_table cimport (
    FR_AFF_ABSENT, FR_AFF_BUSY, FR_AFF_FOUND, FR_AFF_OTHER, FR_AFF_WROTE, FR_BIND_GUARDED, FR_BIND_ONCE, FR_BIND_PROVISIONAL,
    AffinityTable, fr_binding, fr_guard
)
from fastroute._core.base cimport FR_NO_SLOT, fr_now_ms, fr_now_tick, fr_ticks_of_ms
from fastroute._core.hashes cimport fr_fingerprint, fr_siphash128
from fastroute._core.pool cimport Pool
from fastroute._core.zone cimport fr_table

from fastroute.errors import UsageError

cdef extern from "fr_push.h" nogil:
    ctypedef struct fr_push:
        uint64_t store
    int fr_push_holds(const fr_push *push, uint64_t store, uint32_t verified_tick, uint32_t now_tick) noexcept
    fr_guard fr_push_guard(const fr_push *push, uint64_t store, uint32_t now_tick) noexcept
    int fr_push_mark(fr_table *table, const fr_fingerprint *key, int all) noexcept

cdef extern from *:
    """
    static const fr_push *fr_push_of(const fr_table *table) { return table->push; }
    """
    const fr_push *fr_push_of(const fr_table *table) noexcept nogil

cdef enum:
    ZONE_SLOTS = 65536                  # zone slots are 16 bits
    TERM_RANDOM_BITS = 38               # fastroute/affinity/record.py: above them the second the term was drawn in
    TERM_SECONDS_MASK = 0x3FFFFFF
    TOUCH_SHARE = 4                     # the store's record is touched when 1/4 of its lifetime has passed, +-10 % of that
    SLIDE_SHIFT = 6                     # an expiry may lag by 1/64 of the lifetime: a write per key and 28 s at 30 m

BUSY = "busy"
"""What a step answers when a stopped process holds that part of the table: nothing is known."""


cdef class Binding:
    """What the table says about one key.

    Attributes:
        slot: the server's slot in the pool, -1 when this pool has no such server.
        zone_slot: the server's slot in the zone's directory.
        term, generation: the decision; once, provisional: its flags.
        age_ms: milliseconds since the store (or, without one, the zone) last said so.
    """

    def __repr__(self):
        return (f"Binding(slot={self.slot}, term={self.term:#x}, generation={self.generation}, once={self.once}, "
                f"provisional={self.provisional}, age_ms={self.age_ms})")


cdef inline int _near(AffinityView self, const fr_fingerprint *fingerprint, uint32_t now, fr_binding *found,
                      fr_near *out) noexcept:
    """AffinityView.near of a fingerprint; *found is the record where the answer is HIT."""
    cdef uint16_t slot
    out.slot = -1
    out.wants_touch = False
    if self.table.lookup(fingerprint, now, found) != FR_AFF_FOUND or self.seen_version != self.pool.version:
        return FR_NEAR_MISS
    slot = self.pool_slot_of[found.slot]
    if slot == FR_NO_SLOT or not self.pool.takes_bound(slot):
        return FR_NEAR_MISS
    if self.lifetime_s and self.age_s(found.term) >= self.lifetime_s:
        return FR_NEAR_MISS
    if self.near_ticks == 0 or self.trust_stale:
        # Slide the expiry, but only when it lags: reads of a busy key stay reads.
        if (found.flags & FR_BIND_ONCE) or found.expires_tick - now + self.slide_ticks < self.ttl_ticks:
            self.table.touch(fingerprint, now, found.term, found.generation, now + self.ttl_ticks, 0, FR_BIND_ONCE)
    elif now - found.verified_tick > self.near_ticks and not self.watched(found, now):
        return FR_NEAR_MISS
    else:
        out.wants_touch = self.touch_due(fingerprint, found, now)
    out.slot = slot
    out.term = found.term
    out.generation = found.generation
    return FR_NEAR_HIT


cdef class AffinityView:
    """View of `table` for one pool.

    Args:
        pool: whose servers the slots mean.
        table: the zone's affinity table.
        fleet: name of the fleet; part of the identity of servers in the zone.
        hash_key: 16 secret bytes that key the fingerprints of this fleet and pool.
        ttl_s: sliding idle lifetime of a binding, > 0.
        once_s: the same for a key that was seen once only.
        near_ttl_s: how long an entry confirmed by the store is trusted; 0 without a store.
        max_lifetime_s: an entry whose term is that old is not used near (it ends); 0: no limit. See set_wall.

    Raises:
        UsageError: hash_key of another length, or a lifetime that is not positive.
    """

    def __cinit__(self, Pool pool not None, AffinityTable table not None, str fleet not None, bytes hash_key not None, *,
                  double ttl_s, double once_s=60.0, double near_ttl_s=0.0, double max_lifetime_s=0.0):
        if PyBytes_GET_SIZE(hash_key) != 16:
            raise UsageError(f"hash_key has {len(hash_key)} bytes; 16 are needed")
        if not (ttl_s > 0 and once_s > 0 and near_ttl_s >= 0):
            raise UsageError(f"ttl_s {ttl_s}, once_s {once_s}: both must be over 0; near_ttl_s {near_ttl_s}: 0 or more")
        self.pool, self.table, self.fleet = pool, table, fleet
        memcpy(&self.hash_key, PyBytes_AS_STRING(hash_key), 16)
        self.clock.manual_ms = 0
        self.ttl_ticks = fr_ticks_of_ms(<uint64_t>(ttl_s * 1000))
        self.once_ticks = min(fr_ticks_of_ms(<uint64_t>(once_s * 1000)), self.ttl_ticks)
        self.slide_ticks = self.ttl_ticks >> SLIDE_SHIFT
        self.near_ticks = fr_ticks_of_ms(<uint64_t>(near_ttl_s * 1000))
        self.lifetime_s = <uint32_t>max(1.0, max_lifetime_s) if max_lifetime_s > 0 else 0
        self.wall_minus_clock_s = 0
        self.touch_ticks = self.ttl_ticks - self.ttl_ticks // TOUCH_SHARE - self.ttl_ticks // (10 * TOUCH_SHARE)
        self.touch_spread = self.ttl_ticks // (5 * TOUCH_SHARE)
        self.store = 0
        self.expected.guarded = 0
        self.expected_own = 0
        self.trust_stale = False
        self.pool_slot_of = <uint16_t *>malloc(ZONE_SLOTS * sizeof(uint16_t))
        if self.pool_slot_of == NULL:
            raise MemoryError
        self.refresh()

    def __dealloc__(self):
        free(self.pool_slot_of)

    cdef fr_fingerprint fingerprint_of(self, const uint8_t *key, Py_ssize_t size) noexcept:
        return fr_siphash128(&self.hash_key, key, <size_t>size)

    cdef int near(self, const uint8_t *key, Py_ssize_t size, fr_near *out) noexcept:
        cdef fr_fingerprint fingerprint = fr_siphash128(&self.hash_key, key, <size_t>size)
        cdef fr_binding found
        return _near(self, &fingerprint, fr_now_tick(&self.clock), &found, out)

    cdef uint32_t age_s(self, uint64_t term) noexcept:
        cdef int64_t wall_s = <int64_t>(fr_now_ms(&self.clock) // 1000) + self.wall_minus_clock_s
        cdef uint64_t age = (<uint64_t>wall_s - (term >> TERM_RANDOM_BITS)) & TERM_SECONDS_MASK
        return <uint32_t>age if age <= TERM_SECONDS_MASK >> 1 else 0

    cdef bint watched(self, const fr_binding *found, uint32_t now) noexcept:
        return (found.flags & FR_BIND_GUARDED) != 0 and fr_push_holds(fr_push_of(self.table.table), self.store,
                                                                      found.verified_tick, now)

    cdef bint touch_due(self, const fr_fingerprint *key, const fr_binding *found, uint32_t now) noexcept:
        # The record in the store was last touched when this one was last given its full lifetime.
        if found.flags & FR_BIND_ONCE:
            return True
        return found.expires_tick - now < self.touch_ticks + <uint32_t>(((key.hi >> 32 & 0xFF) * self.touch_spread) >> 8)

    cdef _binding(self, const fr_binding *found, uint32_t now):
        cdef Binding binding = Binding.__new__(Binding)
        cdef uint16_t slot = self.pool_slot_of[found.slot]
        binding.slot = -1 if slot == FR_NO_SLOT else slot
        binding.zone_slot = found.slot
        binding.term = found.term
        binding.generation = found.generation
        binding.once = (found.flags & FR_BIND_ONCE) != 0
        binding.provisional = (found.flags & FR_BIND_PROVISIONAL) != 0
        binding.age_ms = 0 if self.watched(found, now) else (<uint64_t>(now - found.verified_tick)) << 6
        return binding

    cdef int _fill(self, fr_binding *wanted, int slot, uint64_t term, uint32_t generation, bint once, bint provisional,
                   uint32_t now) except -1:
        if not 0 <= slot < len(self.zone_slot_of) or self.zone_slot_of[slot] is None:
            raise UsageError(f"slot {slot} is no server of pool {self.pool.name!r}")
        wanted.term = term
        wanted.generation = generation
        wanted.expires_tick = now + (self.once_ticks if once else self.ttl_ticks)
        wanted.verified_tick = now
        wanted.slot = self.zone_slot_of[slot]
        wanted.flags = (FR_BIND_ONCE if once else 0) | (FR_BIND_PROVISIONAL if provisional else 0)
        wanted.spare = 0
        return 0

    cdef fr_fingerprint _parsed(self, bytes fingerprint) except *:
        cdef fr_fingerprint out
        if fingerprint is None or PyBytes_GET_SIZE(fingerprint) != 16:
            raise UsageError("a fingerprint is 16 bytes")
        memcpy(&out, PyBytes_AS_STRING(fingerprint), 16)
        return out

    cdef _verdict(self, int status, const fr_binding *out, uint32_t now):
        if status == FR_AFF_BUSY:
            return BUSY, None
        if status == FR_AFF_ABSENT:
            return "absent", None
        return ("wrote" if status == FR_AFF_WROTE else "other"), self._binding(out, now)

    def refresh(self):
        """Learn the pool's present servers; called when its membership changed. Registers new ones in the zone."""
        cdef uint16_t *map = self.pool_slot_of
        cdef uint64_t version = self.pool.version
        cdef int i, slot
        cdef list reverse = []
        for server in self.pool.servers:
            slot = self.pool.slot_of(server.name)
            zone_slot = self.table.zone.server_slot(self.fleet, self.pool.name, server.name)
            while len(reverse) <= slot:
                reverse.append(None)
            if slot >= 0:
                reverse[slot] = zone_slot
        # Other threads may have run until here, but not from here on: they never see half a map.
        for i in range(ZONE_SLOTS):
            map[i] = FR_NO_SLOT
        for i in range(len(reverse)):
            if reverse[i] is not None:
                map[<int>reverse[i]] = i
        self.zone_slot_of = reverse
        self.seen_version = version

    def set_manual_ms(self, uint64_t now_ms):
        """Hold the view's clock still at now_ms (0: the machine's clock again); for tests."""
        self.clock.manual_ms = now_ms

    def set_wall(self, int64_t wall_s):
        """Tell the view the wall clock's seconds; only a view with a max_lifetime_s uses them."""
        self.wall_minus_clock_s = wall_s - <int64_t>(fr_now_ms(&self.clock) // 1000)

    def fingerprint(self, bytes key not None) -> bytes:
        """The 16-byte keyed digest under which this key is bound, in the zone and in the store."""
        cdef fr_fingerprint out = fr_siphash128(&self.hash_key, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return PyBytes_FromStringAndSize(<char *>&out, 16)

    def lookup(self, bytes fingerprint not None):
        """The live Binding, None, or BUSY."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding found
        cdef int status = self.table.lookup(&parsed, now, &found)
        if status == FR_AFF_FOUND:
            return self._binding(&found, now)
        return BUSY if status == FR_AFF_BUSY else None

    def claim(self, bytes fingerprint not None, int slot, uint64_t term, uint32_t generation, *,
              bint once=False, bint provisional=False):
        """First writer wins: ("wrote" | "other" | BUSY, the Binding that stands)."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding wanted, out
        self._fill(&wanted, slot, term, generation, once, provisional, now)
        return self._verdict(self.table.claim(&parsed, now, &wanted, &out), &out, now)

    def learn(self, bytes fingerprint not None, int slot, uint64_t term, uint32_t generation, *, bint once=False,
              uint32_t expires_tick=0, bint only_read=False):
        """Take over what the store said: ("wrote" | "other" | BUSY, the Binding that stands).

        Args:
            expires_tick: when the binding ends; 0 for a full lifetime from now.
            only_read: not all that the store has of it was given its full lifetime by this; take_touch() tells whether
                that is due, and to whom.
        """
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding truth, out
        self._fill(&truth, slot, term, generation, once, False, now)
        if expires_tick:
            truth.expires_tick = expires_tick
        return self._verdict(
            self.table.learn_guarded(&parsed, now, &truth, &self.expected, self.expected_own, only_read, &out), &out, now)

    def near_binding(self, bytes fingerprint not None):
        """The Binding that a request would be given near, without asking; None: the store is to be asked."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding found
        cdef fr_near out
        return self._binding(&found, now) if _near(self, &parsed, now, &found, &out) == FR_NEAR_HIT else None

    def take_question(self, bytes fingerprint not None):
        """Is this caller to ask the store about the key? False: another process of the zone asks just now, or died
        asking: waiting for it has a bound. True: to be ended by end_question()."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        return self.table.take_question(&parsed, fr_now_tick(&self.clock)) != FR_AFF_OTHER

    def end_question(self, bytes fingerprint not None):
        """The question that this caller took on has ended, with an answer or without."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        self.table.end_question(&parsed, fr_now_tick(&self.clock))

    # ---- the push channel

    def watch(self, uint64_t store):
        """Believe what the channel of this store (PushBoard.store) watches; 0: nothing."""
        self.store = store

    def guard(self):
        """To be taken before the store is asked, for expect(); None without a channel."""
        cdef fr_guard taken = fr_push_guard(fr_push_of(self.table.table), self.store, fr_now_tick(&self.clock))
        return (taken.epoch, taken.sequence) if taken.guarded else None

    def expect(self, guard, uint32_t own=0):
        """What the next calls of learn() take over was asked for after `guard`; `own` writes of this process to that key
        were committed since. None: there was no channel. To leave behind: expect(None)."""
        self.expected.guarded = guard is not None
        self.expected_own = own
        if guard is not None:
            self.expected.epoch, self.expected.sequence = guard

    def doubt(self, bytes fingerprint not None):
        """The entry is a hint from now on: whoever needs it asks the store."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        fr_push_mark(self.table.table, &parsed, True)

    def take_touch(self, bytes fingerprint not None):
        """Is a touch of the store's record due, and this caller the one in the whole zone who is to send it?"""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding found
        if self.table.lookup(&parsed, now, &found) != FR_AFF_FOUND or not self.touch_due(&parsed, &found, now):
            return False
        return self.table.take_touch(&parsed, now, &found, now + self.ttl_ticks) == FR_AFF_WROTE

    def want_touch(self, bytes fingerprint not None):
        """A touch that was taken on did not reach the store: whoever sees the key next is to send one."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        self.table.want_touch(&parsed, fr_now_tick(&self.clock))

    def slot_of_zone(self, int zone_slot):
        """The pool's slot of a server of the zone's directory; -1: not a server of this pool."""
        return -1 if not 0 <= zone_slot < ZONE_SLOTS or self.pool_slot_of[zone_slot] == FR_NO_SLOT else self.pool_slot_of[zone_slot]

    def replace(self, bytes fingerprint not None, uint64_t old_term, uint32_t old_generation,
                int slot, uint64_t term, uint32_t generation, *, bint provisional=False):
        """Compare-and-set on (old_term, old_generation): ("wrote" | "other" | "absent" | BUSY, the Binding that stands)."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        cdef fr_binding wanted, out
        self._fill(&wanted, slot, term, generation, False, provisional, now)
        return self._verdict(self.table.replace(&parsed, now, old_term, old_generation, &wanted, &out), &out, now)

    def touch(self, bytes fingerprint not None, uint64_t term, uint32_t generation, *, bint verified=False):
        """Slide the expiry by the full lifetime and clear `once`, if that decision stands."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        cdef uint32_t now = fr_now_tick(&self.clock)
        return self.table.touch(&parsed, now, term, generation, now + self.ttl_ticks, now if verified else 0,
                                FR_BIND_ONCE) == FR_AFF_WROTE

    def remove(self, bytes fingerprint not None, uint64_t term=0, uint32_t generation=0):
        """Remove that decision (term 0: whatever stands): True when something was removed."""
        cdef fr_fingerprint parsed = self._parsed(fingerprint)
        return self.table.remove(&parsed, fr_now_tick(&self.clock), term, generation) == FR_AFF_WROTE
