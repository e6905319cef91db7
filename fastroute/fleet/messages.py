"""Sealed messages: what replicas of one fleet leave for each other in the store, and what is believed of it.

Seal         bytes <-> Message: msgpack with a format byte and a MAC. Pure.
Versions     numbers that grow, over restarts too.
Mail         a seal, a store and a sender: publish, fetch, and how much was refused.
Not here: what the messages say (presence, probes, load, changes).

Layout: 0 format u8 | 1 key id, 4 bytes | 5 MAC, 32 bytes | 37 msgpack [kind, name, sender, version, body]
The MAC is HMAC-SHA256 over all the rest. Its key is derived from the configured `secret` with the fleet's name and the
kind of message, so that nothing sealed for another fleet, purpose or kind is ever believed; the name, which is the end
of the store's key, is under the MAC too, so that a message cannot be laid under another key. A key ring seals with its
first secret and believes all.

Versions grow under each name; where several senders share a name, each writes `above` what it has read. A reader
refuses what is older than the newest it has seen: who can write to the store can delete messages, which is as if the
sender were gone, but cannot bring an old one back to a reader that knows a newer one. A reader that has just started
may be shown an old one until its sender writes again.

Rules of this file: reading never raises; what is not a whole, authentic, current message is counted by cause and is as
if it were not there. Nothing is unpacked before its MAC has been checked.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import msgpack  # type: ignore[import-untyped]

from fastroute._core.mc_reply import STORED, CasToken, Reply
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.model import check_name

__all__ = ["FORMAT", "MESSAGE_BYTES_MAX", "Fetched", "Mail", "MailStatistics", "Message", "Refused", "Seal", "Store"]
__all__ += ["Versions", "store_key"]

FORMAT = 1
"""Format that is written and read; an unknown one is counted and ignored, so that a rolling upgrade stays quiet."""

MESSAGE_BYTES_MAX = 512 << 10
"""Longest message, sealed: half of memcached's default item, more than 65,000 servers' states take."""

NAMES_MAX = 4096
"""Names whose newest version is remembered; the one heard of longest ago is forgotten first."""

_MAC_BYTES, _ID_BYTES = 32, 4
_HEAD = struct.Struct(f"<B{_ID_BYTES}s{_MAC_BYTES}s")
_ROUND_BYTES = 1 + _ID_BYTES

Refused = Literal["size", "format", "forged", "malformed", "old"]
"""Why something in the store is not believed."""


class Message(NamedTuple):
    """What one replica said; `version` grows with each it leaves under a name."""

    kind: str
    name: str
    sender: str
    version: int
    body: Any


def store_key(fleet: str, kind: str, name: str) -> bytes:
    """`fr:f:<kind>:<name>` for the fleet `fr`."""
    return f"{fleet}:f:{kind}:{name}".encode()


class Seal:
    """Seals and opens messages of one fleet.

    Args:
        secrets: the configured key ring, each of at least 32 bytes: the first seals, all open.
        fleet: the fleet's name.

    Raises:
        UsageError: no secret, or a fleet's name that is not accepted.
    """

    def __init__(self, secrets: Sequence[bytes], fleet: str) -> None:
        if not secrets:
            raise UsageError("messages of a fleet are signed: they need `secret`, at least 32 bytes")
        self.fleet = check_name("fleet", fleet)
        self._secrets = [bytes(secret) for secret in secrets]
        self._keys: dict[str, list[tuple[bytes, bytes]]] = {}

    def _ring(self, kind: str) -> list[tuple[bytes, bytes]]:
        """(key id, key) of each secret, for a kind of message."""
        ring = self._keys.get(kind)
        if ring is None:
            context = b"fastroute fleet message\0%d:%s:%s" % (len(self.fleet), self.fleet.encode(), kind.encode())
            keys = [hmac.digest(secret, context, "sha256") for secret in self._secrets]
            ring = self._keys[kind] = [(hashlib.sha256(key).digest()[:_ID_BYTES], key) for key in keys]
        return ring

    def seal(self, message: Message) -> bytes:
        """A message as the store keeps it.

        Raises:
            UsageError: longer than MESSAGE_BYTES_MAX, or a body that is no plain data.
        """
        try:
            packed = msgpack.packb(list(message), strict_types=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"a message {message.kind!r} is no plain data: {error}") from None
        if _HEAD.size + len(packed) > MESSAGE_BYTES_MAX:
            raise UsageError(f"a message {message.kind!r} of {len(packed)} bytes; accepted: {MESSAGE_BYTES_MAX}")
        key_id, key = self._ring(message.kind)[0]
        mac = hmac.digest(key, bytes([FORMAT]) + key_id + packed, "sha256")
        return _HEAD.pack(FORMAT, key_id, mac) + bytes(packed)

    def open(self, kind: str, name: str, data: bytes) -> Message | Refused:
        """The message that stands under a key, or why it is none."""
        if not _HEAD.size < len(data) <= MESSAGE_BYTES_MAX:
            return "size"
        if data[0] != FORMAT:
            return "format"
        _, key_id, mac = _HEAD.unpack_from(data)
        packed = data[_HEAD.size :]
        key = next((key for one, key in self._ring(kind) if one == key_id), None)
        if key is None or not hmac.compare_digest(mac, hmac.digest(key, data[:_ROUND_BYTES] + packed, "sha256")):
            return "forged"
        try:
            parts = msgpack.unpackb(packed)
        except Exception:  # msgpack raises many kinds; a member sealed it, so it is a newer version of ours
            return "malformed"
        match parts:
            case [str(k), str(n), str(sender), int(version), body] if k == kind and version >= 0:
                return Message(k, n, sender, version, body) if n == name else "forged"
        return "malformed"


class Versions:
    """Numbers that grow by at least 1: microseconds of the wall clock, so that they grow over restarts too."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock, self._last = clock, 0

    def next(self, *, above: int = 0) -> int:
        """The next one; more than `above`, what another has used."""
        self._last = max(self._last + 1, above + 1, int(self._clock.wall_s() * 1e6))
        return self._last


class Store(Protocol):
    """What is needed of fastroute.memcache.cluster.Memcached."""

    def get(self, key: bytes, touch_s: float | None = None) -> asyncio.Future[Reply]: ...
    def set(self, key: bytes, value: bytes, ttl_s: float = 0) -> asyncio.Future[Reply]: ...
    def add(self, key: bytes, value: bytes, ttl_s: float = 0) -> asyncio.Future[Reply]: ...
    def cas_set(self, key: bytes, value: bytes, token: CasToken, ttl_s: float = 0) -> asyncio.Future[Reply]: ...
    def delete(self, key: bytes) -> asyncio.Future[Reply]: ...


@dataclass(slots=True)
class MailStatistics:
    """Counts since the start; `refused` by cause."""

    published: int = 0
    unpublished: int = 0
    """The store did not take them, or did not say."""
    fetched: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)


class Fetched(NamedTuple):
    """What stands under a key.

    Attributes:
        message: None where there is none that is believed.
        known: did the store answer at all?
        token: for publishing in its place only if it is unchanged; None where nothing stands there.
    """

    message: Message | None
    known: bool
    token: CasToken | None


class Mail:
    """Publishes as one sender and fetches what others published.

    Args:
        store: open, and left open.
        seal: of the fleet.
        sender: this replica's name.
        clock: stamps versions.

    Notes: belongs to the store's event loop. Another fleet, kind or sender takes another Mail over the same store.
    """

    def __init__(self, store: Store, seal: Seal, sender: str, *, clock: Clock = SYSTEM) -> None:
        self.statistics = MailStatistics()
        self.sender = sender
        self._store, self._seal = store, seal
        self._versions = Versions(clock)
        self._newest: collections.OrderedDict[tuple[str, str], int] = collections.OrderedDict()

    def key(self, kind: str, name: str) -> bytes:
        """The store's key of a message."""
        return store_key(self._seal.fleet, kind, name)

    async def publish(self, kind: str, name: str, body: Any, ttl_s: float, *, above: int = 0) -> int | None:
        """Leave a message, whatever stands there; its version, None where the store did not take it.

        Args:
            above: a version that it must be above.

        Raises:
            UsageError: a body that cannot be sealed.
        """
        message = Message(kind, name, self.sender, self._versions.next(above=above), body)
        return self._count(await self._store.set(self.key(kind, name), self._seal.seal(message), ttl_s), message)

    async def replace(
        self, kind: str, name: str, body: Any, ttl_s: float, *, instead_of: Fetched, above: int = 0
    ) -> int | None:
        """Leave a message only if nothing was written there since `instead_of` was fetched; None where it was, or the
        store did not say."""
        message = Message(kind, name, self.sender, self._versions.next(above=above), body)
        key, data = self.key(kind, name), self._seal.seal(message)
        if instead_of.token is None:
            return self._count(await self._store.add(key, data, ttl_s), message)
        return self._count(await self._store.cas_set(key, data, instead_of.token, ttl_s), message)

    async def withdraw(self, kind: str, name: str) -> None:
        """Take a message away."""
        await self._store.delete(self.key(kind, name))

    async def fetch(self, kind: str, names: Iterable[str], *, any_age: bool = False) -> dict[str, Fetched]:
        """What stands under names, asked for together.

        Args:
            any_age: take what is older than the newest seen, too.
        """
        wanted = list(names)
        replies = await asyncio.gather(*[self._store.get(self.key(kind, name)) for name in wanted])
        return {name: self._believe(kind, name, reply, any_age) for name, reply in zip(wanted, replies, strict=True)}

    def _believe(self, kind: str, name: str, reply: Reply, any_age: bool) -> Fetched:
        if not reply.hit:
            return Fetched(None, reply.known, None)
        found: Message | Refused = self._seal.open(kind, name, reply.value or b"")
        if isinstance(found, Message):
            whose = (kind, name)
            newest = self._newest.get(whose, -1)
            if found.version < newest and not any_age:
                found = "old"
            else:
                self._newest[whose] = max(found.version, newest)
                self._newest.move_to_end(whose)
                if len(self._newest) > NAMES_MAX:
                    self._newest.popitem(last=False)
        if isinstance(found, Message):
            self.statistics.fetched += 1
            return Fetched(found, True, reply.token)
        self.statistics.refused[found] += 1
        return Fetched(None, True, reply.token)

    def _count(self, reply: Reply, message: Message) -> int | None:
        stored = reply.status == STORED
        if stored:
            self.statistics.published += 1
        else:
            self.statistics.unpublished += 1
        return message.version if stored else None
