"""The affinity record as it lies in the store: 32 bytes, fixed, little endian, unauthenticated.

    offset  0 version u8 | 1 flags u8 | 2 pool epoch u16 | 4 generation u32 | 8 term u64
           16 server id u64 (XXH64 of its name) | 24 writer id u32 | 28 minute stamp u32 (heuristics only)

(term, generation) names one decision: the term is drawn at the first assignment, the generation grows with each move.
A record of another version or size is no record: it is replaced by compare-and-set, never believed. The worst a forger
of records can do is to name another configured server.

Source: reference layout of section 5 of the agreement protocol (docs/design/agreement.md).
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass

from fastroute._core.hashes import xxh64

__all__ = ["RECORD_BYTES", "RECORD_VERSION", "Record", "new_term", "server_id"]

RECORD_VERSION = 1
_LAYOUT = struct.Struct("<BBHIQQII")
RECORD_BYTES = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class Record:
    """One decision: this key belongs to this server.

    Attributes:
        term: 1..2**64-1, random per first assignment.
        generation: 1..2**32-1, grows by one with each move of the term.
        server: server_id() of the server's name.
        writer: 32-bit id of the process that wrote it, for people who debug.
        minute: minutes since 1970 when it was written, a heuristic and never compared for truth.
    """

    term: int
    generation: int
    server: int
    writer: int = 0
    minute: int = 0

    def pack(self) -> bytes:
        return _LAYOUT.pack(
            RECORD_VERSION, 0, 0, self.generation, self.term, self.server, self.writer, self.minute & 0xFFFFFFFF
        )

    @staticmethod
    def unpack(data: bytes | None) -> Record | None:
        """The record in these bytes; None for anything that is not one."""
        if data is None or len(data) != RECORD_BYTES:
            return None
        version, _flags, _epoch, generation, term, server, writer, minute = _LAYOUT.unpack(data)
        if version != RECORD_VERSION or not term or not generation:
            return None
        return Record(term, generation, server, writer, minute)

    def same_decision(self, other: Record) -> bool:
        """Do both name the same (term, generation) and server?"""
        return (self.term, self.generation, self.server) == (other.term, other.generation, other.server)

    def outranks(self, other: Record) -> bool:
        """Is this a later decision of the same term? The only case in which another record beats the store's."""
        return self.term == other.term and self.generation > other.generation

    def moved_to(self, server: int, *, writer: int, minute: int) -> Record:
        """The next decision of this term."""
        return Record(self.term, self.generation + 1, server, writer, minute)


def server_id(name: str) -> int:
    """What records call a server: XXH64 of its name, 64 bits."""
    return xxh64(name)


def new_term() -> int:
    """A random term, never 0 (0 means "not bound")."""
    return secrets.randbits(64) or 1
