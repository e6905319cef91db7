"""The affinity record as it lies in the store: 32 bytes, fixed, little endian, unauthenticated.

    offset 0 version u8 | 1 flags u8 | 2 pool epoch u16 | 4 generation u32 | 8 term u64
           16 server id u64 (XXH64 of its name) | 24 writer id u32 | 28 minute stamp u32

    flags: the second (0..59) within the stamp's minute. Pool epoch: 0; the order of nodes needs no number in the
    record, since the list that decides is configured on every replica (Memcached, previous_nodes).

(term, generation) names one decision: the term is drawn at the first assignment, the generation grows with each move.
The term's upper 26 bits are the second of that first assignment (wrapping after two years), the lower 38 are random: so
every place that remembers a decision (store, zone, cookie) knows how old the binding is, whoever restores or moves it.
Two replicas that claim one key in one second draw the same term once in 2.7e11.

A released key has a record as well: the term's next generation, of nobody (server id 0). Wherever the released binding
is still known (a zone, a copy, a cookie) it is the earlier decision, and loses.

A record of another version or size is no record: it is replaced by compare-and-set, never believed. The worst a forger
of records can do is to name another configured server.

Source: reference layout of section 5 of the agreement protocol (docs/design/agreement.md).
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass

from fastroute._core.hashes import xxh64

__all__ = [
    "GENERATION_MAX",
    "NOBODY",
    "RECORD_BYTES",
    "RECORD_VERSION",
    "TERM_RANDOM_BITS",
    "Record",
    "new_term",
    "server_id",
    "term_age_s",
]

RECORD_VERSION = 1
GENERATION_MAX = 2**31
"""What is read with a later one is no record: nobody moves a key that often, and one that could not be moved any more
(generations have 32 bits) would make its key's requests fail."""
NOBODY = 0
"""The server id of a released key's record; no name has it (one in 2**64 would, and could not be bound to)."""
_LAYOUT = struct.Struct("<BBHIQQII")
RECORD_BYTES = _LAYOUT.size
TERM_RANDOM_BITS = 38
_SECONDS_MASK = (1 << 64 - TERM_RANDOM_BITS) - 1


@dataclass(frozen=True, slots=True)
class Record:
    """One decision: this key belongs to this server.

    Attributes:
        term: 1..2**64-1, random per first assignment.
        generation: 1..GENERATION_MAX, grows by one with each move of the term.
        server: server_id() of the server's name.
        writer: 32-bit id of the process that wrote it, for people who debug.
        minute: minutes since 1970 when it was written, a heuristic and never compared for truth.
        second: of that minute.
    """

    term: int
    generation: int
    server: int
    writer: int = 0
    minute: int = 0
    second: int = 0

    def pack(self) -> bytes:
        minute = self.minute & 0xFFFFFFFF
        return _LAYOUT.pack(
            RECORD_VERSION, self.second, 0, self.generation, self.term, self.server, self.writer, minute
        )

    @staticmethod
    def unpack(data: bytes | None) -> Record | None:
        """The record in these bytes; None for anything that is not one."""
        if data is None or len(data) != RECORD_BYTES:
            return None
        version, second, _epoch, generation, term, server, writer, minute = _LAYOUT.unpack(data)
        if version != RECORD_VERSION or not term or not 0 < generation <= GENERATION_MAX:
            return None
        return Record(term, generation, server, writer, minute, second if second < 60 else 0)

    def same_decision(self, other: Record) -> bool:
        """Do both name the same (term, generation) and server?"""
        return (self.term, self.generation, self.server) == (other.term, other.generation, other.server)

    def outranks(self, other: Record) -> bool:
        """Is this a later decision of the same term? The only case in which another record beats the store's."""
        return self.term == other.term and self.generation > other.generation

    @property
    def released(self) -> bool:
        """Does it say that the key is bound to nobody any more?"""
        return self.server == NOBODY

    def moved_to(self, server: int, *, writer: int, minute: int, second: int = 0) -> Record:
        """The next decision of this term."""
        return Record(self.term, self.generation + 1, server, writer, minute, second)

    def age_s(self, wall_s: int) -> int:
        """Seconds since it was written, by the clocks of two machines: for heuristics; negative where they differ."""
        return wall_s - (self.minute * 60 + self.second)


def server_id(name: str) -> int:
    """What records call a server: XXH64 of its name, 64 bits."""
    return xxh64(name)


def new_term(wall_s: int = 0) -> int:
    """A term for a binding that begins now (seconds since 1970), never 0 (0 means "not bound")."""
    return (wall_s & _SECONDS_MASK) << TERM_RANDOM_BITS | secrets.randbits(TERM_RANDOM_BITS) or 1


def term_age_s(term: int, wall_s: int) -> int:
    """Seconds since the term was drawn; 0 for one that seems to come from the future (clocks differ)."""
    age_s = (wall_s - (term >> TERM_RANDOM_BITS)) & _SECONDS_MASK
    return age_s if age_s <= _SECONDS_MASK >> 1 else 0
