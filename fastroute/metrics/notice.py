"""The notice of a replica: one document that its processes share, for what is too large or too loose for the board.

What stands there: servers that were added, removed or found while the replica runs, their columns, deadlines of drains,
what the fleet ordered. Not here: what it means (fastroute.config.membership, fastroute.fleet.changes).

Theory of operation. The supervisor makes an unnamed file in memory before it forks; everybody holds the same one.
A writer takes a lock of the file (record locks: they end with the process), reads, puts the new document into the half
that is not in force, and then the header, which says which half is, its size, checksum and version. A reader that meets
a header of one moment and a half of another sees it by the checksum and reads again. A writer killed anywhere leaves
the old document in force.

Rules of this file: reading takes no lock and never waits; the version grows with each document and is never reused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fastroute.config.schema import ServerConfig
from fastroute.errors import UsageError

__all__ = ["DOCUMENT_BYTES_MAX", "LAYER_AGAIN_S", "LayerSeen", "Notice", "PoolChanges", "Told"]

DOCUMENT_BYTES_MAX = 32 << 20
"""65,000 servers of some 250 bytes each, twice."""

LAYER_AGAIN_S = 86400.0
"""A sticky layer that is seen is told once in so long."""

LAYERS_MAX = 512
"""Told at once: some 20 products, on two sides, of the pools that stick."""

_HEADER = struct.Struct("<QQQI")  # version, which half, size, checksum
_HALVES_AT = 4096
_TRIES = 8


class PoolChanges(msgspec.Struct, omit_defaults=True):
    """What differs from the file in one pool.

    Attributes:
        added: servers that an operator added.
        removed: names that an operator took out, of whatever origin.
        found: servers that a source found; None: it has not answered yet.
        found_note: what is wrong with the source; "" for nothing.
        deadlines: server -> wall clock, s, at which its drain ends.
    """

    added: list[ServerConfig] = []
    removed: list[str] = []
    found: list[ServerConfig] | None = None
    found_note: str = ""
    found_at_s: float = 0.0
    deadlines: dict[str, float] = {}


class LayerSeen(msgspec.Struct, omit_defaults=True, frozen=True):
    """Another layer that is sticky too (fastroute.proxy.layers).

    Attributes:
        side: one of fastroute.metrics.layout.LAYER_SIDES.
        product, cookie: as fastroute.session.foreign names them.
        at_s: wall clock, when it was told.
    """

    pool: str
    side: str
    product: str
    cookie: str
    at_s: float


class Told(msgspec.Struct, omit_defaults=True):
    """The document.

    Attributes:
        pools: pool -> what differs from the file.
        columns: (pool, server, column) of servers that are not in the file.
        fleet: what fastroute.fleet.changes keeps here.
        layers: others that are sticky too, as they were told last.
    """

    pools: dict[str, PoolChanges] = {}
    columns: list[tuple[str, str, int]] = []
    fleet: Any = None
    layers: list[LayerSeen] = []


class Notice:
    """The shared document; made before the fork."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("fastroute-notice", os.MFD_CLOEXEC)
        else:  # pragma: no cover  another system: a file without a name is as good
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        self._seen: tuple[int, Told] = (0, Told())
        os.ftruncate(self._fd, _HALVES_AT)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    @property
    def version(self) -> int:
        """Of the document in force; 0: nothing was written yet."""
        return int(_HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))[0])

    def read(self) -> tuple[int, Told]:
        """(version, the document); the caller changes nothing in it."""
        for _ in range(_TRIES):
            version, half, size, checksum = _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))
            if version == self._seen[0]:
                break
            data = os.pread(self._fd, size, _HALVES_AT + half * DOCUMENT_BYTES_MAX)
            if zlib.crc32(data) == checksum:
                self._seen = (version, msgspec.msgpack.decode(data, type=Told))
                break
        return self._seen

    def write(self, change: Callable[[Told], Any], *, wait: bool = True) -> int:
        """Change the document and put it in force; the version that it has now.

        Args:
            change: gets a copy of the present one and changes it; what it raises is raised, and nothing changes.
            wait: for another writer.

        Raises:
            UsageError: it became too large.
            BlockingIOError: somebody else writes, and this call was not to wait.
        """
        with self._locked(wait):
            version, half, size, _ = _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))
            before = os.pread(self._fd, size, _HALVES_AT + half * DOCUMENT_BYTES_MAX) if version else b"\x80"
            told = msgspec.msgpack.decode(before, type=Told)
            change(told)
            data = msgspec.msgpack.encode(told)
            if data == before:
                return int(version)
            if len(data) > DOCUMENT_BYTES_MAX:
                raise UsageError(f"changes of {len(data)} bytes: a replica keeps at most {DOCUMENT_BYTES_MAX}")
            half = 1 - half
            at = _HALVES_AT + half * DOCUMENT_BYTES_MAX
            if os.pwrite(self._fd, data, at) != len(data):  # a file in memory takes all or nothing
                raise UsageError("no memory for the changes of this replica")
            os.pwrite(self._fd, _HEADER.pack(version + 1, half, len(data), zlib.crc32(data)), 0)
            return int(version) + 1

    def tell_layer(self, seen: LayerSeen) -> bool:
        """Is this news? A layer is, unless it was told within LAYER_AGAIN_S; one in front is not while servers behind
        set the same product's cookies, which then come back in requests. Never waits.

        Raises:
            UsageError: there is no room for more.
            BlockingIOError: somebody else writes.
        """
        known = {(one.pool, one.side, one.product): one for one in self.read()[1].layers}

        def is_old(told: LayerSeen | None, times: int = 1) -> bool:
            return told is None or not -LAYER_AGAIN_S < seen.at_s - told.at_s < times * LAYER_AGAIN_S

        def news() -> bool:
            behind = known.get((seen.pool, "servers", seen.product)) if seen.side == "front" else None
            return is_old(known.get((seen.pool, seen.side, seen.product))) and is_old(behind, 2)

        def change(told: Told) -> None:
            known.update({(one.pool, one.side, one.product): one for one in told.layers})
            if not (new := news()):
                return
            known[seen.pool, seen.side, seen.product] = seen
            if len(known) > LAYERS_MAX:
                raise UsageError(f"more than {LAYERS_MAX} sticky layers")
            told.layers = list(known.values())
            answer.append(new)

        answer: list[bool] = []
        if news():
            self.write(change, wait=False)
        return bool(answer)

    @contextlib.contextmanager
    def _locked(self, wait: bool) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
