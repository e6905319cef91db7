"""The pieces of a stored value: extensions, compression, parts, generations."""

from __future__ import annotations

import os

import pytest

from fastroute.cache import compress
from fastroute.cache.codec import ITEM_BYTES_MAX, Codec, Entry, Life, Manifest, Tag
from fastroute.cache.generations import GENERATION_TTL_S, Generations, new_generation, read_generation
from fastroute.cache.keys import KeySpace
from fastroute.cache.values import Extension, Unreadable, Values, pack
from fastroute.errors import UsageError

DIGEST = b"d" * 32


class Mark:
    pass


def failing(data: bytes) -> object:
    raise LookupError(data)


def extension(code: int = 16, kind: type = Mark) -> Extension:
    return Extension(code, kind, lambda value: b"", lambda data: Mark())


@pytest.mark.parametrize(
    "extensions",
    [
        [extension(0)],
        [extension(3)],
        [extension(128)],
        [extension(), extension(17)],
        [extension(), extension(16, Values)],
        [extension(16, int)],
        [extension(16, tuple)],
    ],
)
def test_an_extension_that_is_taken_or_out_of_range_is_refused(extensions: list[Extension]) -> None:
    with pytest.raises(UsageError, match="extension"):
        Values(extensions)


def test_an_extension_is_kept_within_tuples_and_its_failure_is_a_miss() -> None:
    values = Values([extension()])
    assert type(values.unpack(values.pack((1, (Mark(),))))[1][0]) is Mark
    with pytest.raises(Unreadable):
        Values([Extension(16, Mark, lambda value: b"", failing)]).unpack(values.pack(Mark()))
    with pytest.raises(UsageError, match="cannot be cached"):
        pack(Mark())


@pytest.mark.skipif(not compress.AVAILABLE, reason="zstandard is not installed")
def test_a_frame_that_claims_too_much_or_is_none_is_refused() -> None:
    bomb = compress.compress(b"\0" * 1_000_000)
    assert len(bomb) < 200
    assert len(compress.decompress(bomb, 1_000_000)) == 1_000_000
    for frame, bytes_max in ((bomb, 999_999), (bomb[:-1], 10**7), (b"", 10**7), (os.urandom(40), 10**7)):
        with pytest.raises(compress.Refused):
            compress.decompress(frame, bytes_max)


@pytest.mark.skipif(not compress.AVAILABLE, reason="zstandard is not installed")
def test_a_compressed_value_over_the_limit_of_the_reader_is_a_miss() -> None:
    found = Codec().seal(DIGEST, pack("x" * 100_000), made_ms=1, ttl_ms=1)
    assert found is not None
    assert isinstance(Codec().open(DIGEST, found.envelope), Entry)
    assert Codec(object_bytes_max=50_000).open(DIGEST, found.envelope) == "corrupt"


@pytest.mark.parametrize("secret", [None, b"s" * 32])
def test_a_long_value_is_cut_and_joined(secret: bytes | None) -> None:
    value, codec = os.urandom(2 * ITEM_BYTES_MAX), Codec(secret)
    found = codec.seal(DIGEST, pack(value), made_ms=1, ttl_ms=5, tags=[Tag(b"t" * 16, 3)], generation=9)
    assert found is not None
    entry = codec.open(DIGEST, found.envelope)
    assert isinstance(entry, Entry)
    assert isinstance(entry.value, Manifest)
    assert (entry.tags, entry.generation, entry.value.parts) == ((Tag(b"t" * 16, 3),), 9, len(found.parts))
    assert codec.join(entry.value, found.parts) == (value, "")
    assert codec.join(entry.value, found.parts[1:]) == (None, "corrupt")
    assert codec.join(entry.value, [*found.parts[:-1], found.parts[-1][:-1] + b"?"])[1] in ("corrupt", "")
    assert codec.join(entry.value, found.parts[::-1])[1] == "corrupt"
    assert codec.seal(DIGEST, b"x" * (codec.object_bytes_max + 1), made_ms=1, ttl_ms=1) is None


@pytest.mark.parametrize("secret", [None, b"s" * 32])
def test_an_envelopes_life_and_generation_can_be_changed_and_nothing_else(secret: bytes | None) -> None:
    codec = Codec(secret)
    found = codec.seal(DIGEST, pack("v"), made_ms=1, ttl_ms=5, compute_ms=8, tags=[Tag(b"t" * 16, 3)], generation=9)
    assert found is not None
    before = codec.open(DIGEST, found.envelope)
    changed = codec.change(found.envelope, made_ms=2, life=Life(6, 7, 8), generation=10)
    assert isinstance(before, Entry)
    assert codec.open(DIGEST, changed) == before._replace(made_ms=2, ttl_ms=6, stale_ms=7, error_ms=8, generation=10)


def test_generations_are_believed_for_near_ttl_and_asked_again_after_half_of_it() -> None:
    held = Generations(KeySpace("fr", "n"), 2.0)
    assert held.learn_node("node", 5, 100.0) is False
    assert held.of_node("node") == (5, 101.0, 102.0)
    assert held.learn_node("node", 5, 101.0) is False
    assert held.learn_node("node", 6, 101.5) is True
    assert held.any_node


def test_a_near_value_is_believed_until_one_of_its_tags_is_purged() -> None:
    held = Generations(KeySpace("fr", "n"), 2.0)
    one, two = held.digests(["one", "two", "one"])
    value = held.tag("value", (one,), held.stamp)
    held.purged(two)
    assert held.believes(value)
    held.purged(one)
    assert not held.believes(value)
    assert held.believes(held.tag("value", (one,), held.stamp))


def test_a_changed_generation_is_a_purge() -> None:
    held = Generations(KeySpace("fr", "n"), 2.0)
    (tag,) = held.digests(["x"])
    value = held.tag("value", (tag,), held.stamp)
    held.learn_tag(tag, 1, 0.0)
    assert held.believes(value)
    held.learn_tag(tag, 2, 1.0)
    assert not held.believes(value)


def test_tags_of_two_namespaces_and_fleets_have_keys_of_their_own() -> None:
    spaces = [KeySpace("fr", "n"), KeySpace("fr", "m"), KeySpace("fs", "n")]
    assert len({Generations(space, 2.0).digest("x") for space in spaces}) == 3
    assert Generations(spaces[0], 2.0).key(b"\x01" * 16) == "fr:t:n:" + "01" * 16


@pytest.mark.parametrize("tags", ["text", [""], [5], ["x" * 2000], [str(n) for n in range(65)]])
def test_tags_out_of_the_rules_are_refused(tags: object) -> None:
    with pytest.raises(UsageError, match="tag"):
        Generations(KeySpace("fr", "n"), 2.0).digests(tags)


def test_a_generation_is_eight_bytes_and_never_nothing() -> None:
    assert all(read_generation(new_generation()) for _ in range(100))
    assert [read_generation(value) for value in (None, b"", b"1234567", b"123456789")] == [None] * 4
    assert GENERATION_TTL_S == 30 * 86_400
