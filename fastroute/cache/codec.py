"""Envelopes of the shared cache: what stands around a value in the store, to say what it is, whose, and how old.

Not here: the value itself (values.py), which key (keys.py), who computes a value (core.py).

Rules of this file:
  - Reading never raises: what is not a whole, current, authentic value of exactly this key is a reason, and a miss.
  - A value that is longer than an item of the store is cut into parts; its envelope then holds a manifest of them.

Envelope, little endian (format 2, HEAD_BYTES = 80, then with FLAG_MAC 16 bytes of MAC, then 24 bytes per tag, then the
payload: msgpack, or with FLAG_ZSTD a frame of it, or with FLAG_PARTS a manifest of either):
    0 format u8 | 1 flags u8 | 2 tags u16 | 4 compute_ms u32 | 8 made_ms u64 | 16 ttl_ms u64 | 24 stale_ms u64 |
    32 error_ms u64 | 40 generation u64 | 48 digest of the key, 32 bytes
    tag:      digest of the tag, 16 bytes | generation u64
    manifest: 0 fill u64 | 8 parts u32 | 12 bytes of the whole u64 | 20 BLAKE2b-128 of the whole
made_ms is the writer's wall clock. Clocks of two machines that differ make a value fresh for longer or shorter by the
difference, never beyond the store's own, relative, time to live. `generation` is the namespace's, each tag has its own;
they are compared with what the store says of them now (generations.py).

The MAC is BLAKE2b keyed with the secret, 128 bits, over all the rest; it covers the key's digest, so that a value
cannot be moved to another key, and by the manifest's digest the parts. It does not stop someone who can write to the
store from putting an older value back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastroute.cache import compress
from fastroute.cache.keys import DIGEST_BYTES
from fastroute.cache.values import Unreadable, Values
from fastroute.errors import UsageError

__all__ = ["FORMAT", "HEAD_BYTES", "Codec", "Entry", "Life", "Manifest", "Sealed", "Tag"]

FORMAT = 2
"""Format that is written. A fleet upgrades through two adjacent formats; an unknown one is a miss. 1 had no tags."""

FLAG_MAC, FLAG_PARTS, FLAG_ZSTD = 1, 2, 4
"""Other bits are unknown: a miss."""
_FLAGS = FLAG_MAC | FLAG_PARTS | FLAG_ZSTD

MAC_BYTES = 16
_HEAD = struct.Struct(f"<BBHIQQQQQ{DIGEST_BYTES}s")
_TAG = struct.Struct("<16sQ")
_MANIFEST = struct.Struct("<QIQ16s")
HEAD_BYTES = _HEAD.size

ITEM_BYTES_MAX = 1_000_000
"""Longest envelope: memcached's default item limit is 1 MiB with key and header; longer values are cut."""

PART_BYTES = 500_000
"""Bytes of a part: memcached 1.6 keeps items up to half a mebibyte in one piece, longer ones as chains of chunks."""

OBJECT_BYTES_MAX = 8 << 20
"""Longest value, packed: [cache] max_object_bytes of the configuration, same default."""

OBJECT_BYTES_LIMIT = 1 << 30
"""What may be asked for at most."""

COMPRESS_BYTES = 4096
"""Values from here on are compressed: below it Zstandard saves less than it costs (a frame of 1 KiB of JSON: 20 us)."""

COMPRESSED_RATIO_MAX = 0.9
"""A frame that saves less than a tenth is not kept: every reader would pay for it."""

TAGS_MAX = 64
"""Tags of one value: each costs its readers a look at its generation."""

SECRET_BYTES_MIN = 32
"""As for every other secret of the configuration."""

SECRETS_MAX = 8
"""Secrets that are tried on a value: the current one and those that are being retired."""


class Tag(NamedTuple):
    """A tag of a value and its generation when the value was made."""

    digest: bytes
    generation: int


class Manifest(NamedTuple):
    """Stands for a value that is stored in parts."""

    fill: int
    parts: int
    size_bytes: int
    digest: bytes
    compressed: bool


class Life(NamedTuple):
    """How long a value is good for, in milliseconds: fresh, then stale, or when its successor fails."""

    ttl_ms: int
    stale_ms: int = 0
    error_ms: int = 0


class Entry(NamedTuple):
    """What was read from an envelope.

    Attributes:
        value: the value, or a Manifest.
        made_ms: wall clock of the writer, milliseconds since 1970.
        ttl_ms: fresh for so long from made_ms on.
        stale_ms: usable as stale for so long after that.
        compute_ms: how long it took to compute, 0 where that is not known.
        size_bytes: of its payload.
        error_ms: usable for so long after ttl_ms when computing a new one fails.
        generation: of the namespace.
        tags: with their generations.
    """

    value: Any
    made_ms: int
    ttl_ms: int
    stale_ms: int
    compute_ms: int
    size_bytes: int
    error_ms: int = 0
    generation: int = 0
    tags: tuple[Tag, ...] = ()

    def age_ms(self, now_ms: int) -> int:
        """Never below zero: a writer whose clock is ahead does not lengthen a value's life here."""
        return max(0, now_ms - self.made_ms)


class Sealed(NamedTuple):
    """What is to be written: the envelope, and the parts that it refers to."""

    envelope: bytes
    fill: int = 0
    parts: tuple[bytes, ...] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.envelope) + sum(map(len, self.parts))


class Codec:
    """Puts values into envelopes and takes them out.

    Args:
        secret: None, or at least 32 bytes (str as UTF-8); or a sequence of these: the first signs, all verify.
            With a secret a value without a MAC is a miss; without one a value with a MAC is.
        values: what packs and unpacks.
        compress_bytes: payloads from this length on are compressed; 0 turns it off.
        object_bytes_max: longest payload.

    Raises:
        UsageError: a secret that is too short, or too many; a limit that is out of range.

    Notes: safe with threads.
    """

    __slots__ = ("_compress_bytes", "_keys", "_unpack", "object_bytes_max", "values")

    def __init__(
        self,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        *,
        values: Values | None = None,
        compress_bytes: int = COMPRESS_BYTES,
        object_bytes_max: int = OBJECT_BYTES_MAX,
    ) -> None:
        secrets = [] if secret is None else [secret] if isinstance(secret, (str, bytes)) else list(secret)
        if len(secrets) > SECRETS_MAX or (secret is not None and not secrets):
            raise UsageError(f"{len(secrets)} secrets of a cache: accepted are 1 to {SECRETS_MAX}, or None")
        if not 1 <= object_bytes_max <= OBJECT_BYTES_LIMIT:
            raise UsageError(f"object_bytes_max {object_bytes_max}: accepted are 1 to {OBJECT_BYTES_LIMIT}")
        self._keys = tuple(_mac_key(one) for one in secrets)
        self._compress_bytes = compress_bytes if compress.AVAILABLE else 0
        self.values = values or Values()
        self._unpack = self.values.unpack
        self.object_bytes_max = object_bytes_max

    # ------------------------------------------------------------------ writing

    def seal(
        self,
        digest: bytes,
        payload: bytes,
        *,
        made_ms: int,
        ttl_ms: int,
        stale_ms: int = 0,
        error_ms: int = 0,
        compute_ms: int = 0,
        generation: int = 0,
        tags: Sequence[Tag] = (),
    ) -> Sealed | None:
        """The envelope of a packed value, and its parts; None when the value is too long.

        Args:
            digest: of the key.
            payload: the value as msgpack.
            made_ms, ttl_ms, stale_ms, error_ms, compute_ms, generation, tags: as Entry's.
        """
        if len(payload) > self.object_bytes_max:
            return None
        flags = 0
        if self._compress_bytes and len(payload) >= self._compress_bytes:
            frame = compress.compress(payload)
            if len(frame) <= len(payload) * COMPRESSED_RATIO_MAX:
                payload, flags = frame, FLAG_ZSTD
        fill = 0
        parts: tuple[bytes, ...] = ()
        if HEAD_BYTES + MAC_BYTES + _TAG.size * len(tags) + len(payload) > ITEM_BYTES_MAX:
            fill = int.from_bytes(os.urandom(8), "little")
            parts = tuple(payload[at : at + PART_BYTES] for at in range(0, len(payload), PART_BYTES))
            payload = _MANIFEST.pack(fill, len(parts), len(payload), _whole(payload))
            flags |= FLAG_PARTS
        return Sealed(
            self._close(flags, compute_ms, made_ms, ttl_ms, stale_ms, error_ms, generation, digest, tags, payload),
            fill,
            parts,
        )

    def _close(
        self,
        flags: int,
        compute_ms: int,
        made_ms: int,
        ttl_ms: int,
        stale_ms: int,
        error_ms: int,
        generation: int,
        digest: bytes,
        tags: Sequence[Tag],
        payload: bytes,
    ) -> bytes:
        flags = flags | FLAG_MAC if self._keys else flags & ~FLAG_MAC
        compute_ms = min(compute_ms, 0xFFFFFFFF)
        head = _HEAD.pack(FORMAT, flags, len(tags), compute_ms, made_ms, ttl_ms, stale_ms, error_ms, generation, digest)
        if tags:
            payload = b"".join(_TAG.pack(*tag) for tag in tags) + payload
        return head + _mac(self._keys[0], head, payload) + payload if self._keys else head + payload

    def change(
        self, data: bytes, *, made_ms: int | None = None, life: Life | None = None, generation: int | None = None
    ) -> bytes:
        """The same envelope with another life or generation; precondition: open() took it, or seal() made it."""
        _, flags, count, compute_ms, made, ttl, stale, error, of_namespace, digest = _HEAD.unpack_from(data)
        at = HEAD_BYTES + (MAC_BYTES if flags & FLAG_MAC else 0)
        tags = [Tag(*_TAG.unpack_from(data, at + n * _TAG.size)) for n in range(count)]
        return self._close(
            flags,
            compute_ms,
            made if made_ms is None else made_ms,
            *(Life(ttl, stale, error) if life is None else life),
            of_namespace if generation is None else generation,
            digest,
            tags,
            data[at + count * _TAG.size :],
        )

    # ------------------------------------------------------------------ reading

    def open(self, digest: bytes, data: bytes) -> Entry | str:
        """The entry in an envelope, or why it is none.

        Returns:
            Entry, or "format" (not ours, or a newer one), "key" (another key's value), "mac" (missing, wrong, or made
            with a secret that is not known here) or "corrupt".
        """
        if len(data) < HEAD_BYTES or data[0] != FORMAT:
            return "format"
        _, flags, count, compute_ms, made_ms, ttl_ms, stale_ms, error_ms, generation, found = _HEAD.unpack_from(data)
        if flags & ~_FLAGS or count > TAGS_MAX:
            return "format"
        if found != digest:
            return "key"
        at = HEAD_BYTES
        if flags & FLAG_MAC or self._keys:
            if not (flags & FLAG_MAC and self._keys):
                return "mac"
            at += MAC_BYTES
            head, mac, rest = data[:HEAD_BYTES], data[HEAD_BYTES:at], data[at:]
            if not any(hmac.compare_digest(_mac(key, head, rest), mac) for key in self._keys):
                return "mac"
        tags: tuple[Tag, ...] = ()
        if count:
            if len(data) < at + count * _TAG.size:
                return "corrupt"
            tags = tuple([Tag(*_TAG.unpack_from(data, at + n * _TAG.size)) for n in range(count)])
            at += count * _TAG.size
        payload = data[at:]
        value: Any
        if flags & FLAG_PARTS:
            value = self._manifest(payload, bool(flags & FLAG_ZSTD))
            if value is None:
                return "corrupt"
        else:
            try:
                value = self._unpack(
                    compress.decompress(payload, self.object_bytes_max) if flags & FLAG_ZSTD else payload
                )
            except (Unreadable, compress.Refused, MemoryError):
                return "corrupt"
        return Entry(value, made_ms, ttl_ms, stale_ms, compute_ms, len(payload), error_ms, generation, tags)

    def _manifest(self, payload: bytes, compressed: bool) -> Manifest | None:
        if len(payload) != _MANIFEST.size:
            return None
        fill, parts, size_bytes, digest = _MANIFEST.unpack(payload)
        if size_bytes > self.object_bytes_max or parts != -(-size_bytes // PART_BYTES):
            return None
        return Manifest(fill, parts, size_bytes, digest, compressed)

    def join(self, manifest: Manifest, parts: Sequence[bytes]) -> tuple[Any, str]:
        """(value, "") of all parts of a manifest, or (None, "corrupt")."""
        whole = b"".join(parts)
        if len(whole) != manifest.size_bytes or not hmac.compare_digest(_whole(whole), manifest.digest):
            return None, "corrupt"
        try:
            return self._unpack(compress.decompress(whole, self.object_bytes_max) if manifest.compressed else whole), ""
        except (Unreadable, compress.Refused, MemoryError):
            return None, "corrupt"


def _mac_key(secret: str | bytes) -> bytes:
    raw = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(raw, bytes) or len(raw) < SECRET_BYTES_MIN:
        raise UsageError(f"the secret of a cache: accepted are str or bytes of at least {SECRET_BYTES_MIN} bytes")
    return hashlib.blake2b(raw, digest_size=32, person=b"fr cache mac 1").digest()


def _mac(key: bytes, head: bytes, rest: bytes) -> bytes:
    state = hashlib.blake2b(head, digest_size=MAC_BYTES, key=key, person=b"fr cache value")
    state.update(rest)
    return state.digest()


def _whole(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16, person=b"fr cache whole").digest()
