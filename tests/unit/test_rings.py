"""What every ring dialect promises, and what each alone does; vectors and real products are tested elsewhere."""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from typing import Any

import pytest

from fastroute._core.hashes import xxh64
from fastroute._core.ring import NO_SLOT, Ring
from fastroute._core.ring_envoy import EnvoyRing
from fastroute._core.ring_haproxy import HaproxyMap, HaproxyRing
from fastroute._core.ring_ketama import KetamaRing
from fastroute._core.ring_maglev import MaglevRing
from fastroute._core.ring_nginx import NginxRing
from fastroute._core.ring_point import POINTS_MAX, PointRing
from fastroute._core.ring_rendezvous import SCORE_BITS, RendezvousRing, exponential
from fastroute.errors import UsageError
from fastroute.model import Server
from fastroute.routing.dialects import DIALECTS, build_ring, haproxy_ids

NAMES = sorted(DIALECTS)
KEYS = [f"key-{i}" for i in range(500)]
ADDRESSES = [
    "10.0.0.1:8080",
    "10.0.0.2:8080",
    "[::1]:8080",
    "[2001:db8::7]:443",
    "app.example:80",
    "unix:/run/app.sock",
]
WEIGHTS = [1, 2, 3, 7, 100, 1]


def servers(count: int = 6, weights: list[int] | None = None) -> list[Server]:
    weights = weights or [1] * count
    return [Server(f"10.0.{i // 250}.{i % 250 + 1}:8080", weight=weights[i]) for i in range(count)]


def picks(ring: Ring, rows: list[Server]) -> list[str]:
    return [rows[ring.pick(key)].name for key in KEYS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [[1] * 6, WEIGHTS], ids=["equal", "1,2,3,7,100,1"])
def test_candidates_are_all_servers_once_with_the_pick_first(name: str, weights: list[int]) -> None:
    rows = [
        Server(address, weight=weight, name=f"s{i}")
        for i, (address, weight) in enumerate(zip(ADDRESSES, weights, strict=True))
    ]
    ring = build_ring(name, rows)
    for key in KEYS[:50]:
        found = ring.candidates(key, 10)
        assert found[0] == ring.pick(key)
        assert len(set(found)) == len(found) == ring.server_count
        assert ring.candidates(key, 2) == found[:2]
        assert ring.candidates(key, 0) == ()
    assert name in ("ketama", "libketama", "maglev", "uhashring", "ketama-spy") or ring.server_count == 6


@pytest.mark.parametrize("name", NAMES)
def test_candidates_of_a_large_ring_are_distinct(name: str) -> None:
    ring = build_ring(name, servers(300))
    found = ring.candidates("key", 300)
    assert found[0] == ring.pick("key")
    assert len(set(found)) == len(found) == 300
    assert ring.candidates("key", 5) == found[:5]


@pytest.mark.parametrize("name", NAMES)
def test_a_walk_leaves_out_who_is_not_allowed_and_who_was_tried(name: str) -> None:
    ring = build_ring(name, servers(8))
    for key in KEYS[:50]:
        hash = ring.hash(key)
        found = ring.candidates_of_hash(hash, 8, allowed=[1, 3, 5, 7])
        assert sorted(found) == [1, 3, 5, 7]
        first = ring.pick(key)
        rest = ring.candidates_of_hash(hash, 8, tried=[first])
        assert rest == tuple(slot for slot in ring.candidates_of_hash(hash, 8) if slot != first)
        assert ring.candidates_of_hash(hash, 8, allowed=[]) == ()


@pytest.mark.parametrize("name", [name for name in NAMES if not DIALECTS[name].declared_order])
@pytest.mark.parametrize("weights", [[1] * 6, WEIGHTS], ids=["equal", "1,2,3,7,100,1"])
def test_the_order_of_the_list_does_not_matter(name: str, weights: list[int]) -> None:
    rows = servers(6, weights)
    expected = picks(build_ring(name, rows), rows)
    for seed in range(3):
        mixed = rows[:]
        random.Random(seed).shuffle(mixed)
        assert picks(build_ring(name, mixed), mixed) == expected


def test_the_order_of_the_list_does_not_matter_to_haproxy_with_ids() -> None:
    rows = [Server(f"10.0.0.{i}:80", id=i, weight=WEIGHTS[i - 1]) for i in range(1, 7)]
    expected = picks(build_ring("haproxy", rows), rows)
    assert picks(build_ring("haproxy", rows[::-1]), rows[::-1]) == expected


def test_the_order_of_the_list_does_not_matter_to_envoy_when_weights_are_multiples_of_the_smallest() -> None:
    rows = servers(6, WEIGHTS)
    expected = picks(build_ring("envoy-ring", rows), rows)
    assert picks(build_ring("envoy-ring", rows[::-1]), rows[::-1]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_server_that_returns_gives_the_ring_it_left(name: str) -> None:
    rows = servers(6, WEIGHTS)
    before = picks(build_ring(name, rows), rows)
    without = rows[:3] + rows[4:]
    assert rows[3].name not in picks(build_ring(name, without), without)
    assert picks(build_ring(name, rows), rows) == before


@pytest.mark.parametrize("name", ["nginx", "rendezvous", "haproxy", "uhashring"])
def test_only_the_keys_of_a_removed_server_move(name: str) -> None:
    rows = [Server(f"10.0.0.{i}:80", id=i) for i in range(1, 8)]
    before = picks(build_ring(name, rows), rows)
    left = rows[:2] + rows[3:]
    after = picks(build_ring(name, left), left)
    assert all(old == new for old, new in zip(before, after, strict=True) if old != rows[2].name)


@pytest.mark.parametrize("name", [name for name in NAMES if not DIALECTS[name].rebuilds and name != "jump"])
def test_skipping_a_server_is_the_ring_without_it(name: str) -> None:
    rows = [Server(f"10.0.0.{i}:80", id=i, weight=i) for i in range(1, 8)]
    ring = build_ring(name, rows)
    without = build_ring(name, rows[:2] + rows[3:], [0, 1, 3, 4, 5, 6])
    allowed = [0, 1, 3, 4, 5, 6]
    for key in KEYS:
        assert ring.candidates_of_hash(ring.hash(key), 1, allowed=allowed) == (without.pick(key),)


@pytest.mark.parametrize("name", NAMES)
def test_keys_empty_long_and_not_ascii_are_hashed_as_their_bytes(name: str) -> None:
    ring = build_ring(name, servers(5))
    assert ring.hash("") == ring.hash(b"") == ring.hash(None)
    for key in ("", "x" * 100_000, "schlüssel", "鍵", "\x00\x7f", "emoji 🎈"):
        assert ring.hash(key) == ring.hash(key.encode())
        assert 0 <= ring.pick(key) < 5
    assert 0 <= ring.pick(bytes(range(256))) < 5


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_listed_nowhere(name: str) -> None:
    rows = servers(4, [1, 0, 1, 1])
    ring = build_ring(name, rows)
    assert len(ring) == ring.server_count == 3
    assert all(1 not in ring.candidates(key, 4) for key in KEYS[:50])


@pytest.mark.parametrize("name", NAMES)
def test_a_ring_without_servers_picks_no_slot(name: str) -> None:
    for rows in ([], servers(2, [0, 0])):
        ring = build_ring(name, rows)
        assert (ring.pick("key"), ring.candidates("key", 3), len(ring)) == (NO_SLOT, (), 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_server_takes_every_key(name: str) -> None:
    ring = build_ring(name, servers(1), [4711])
    assert {ring.pick(key) for key in KEYS} == {4711}
    assert ring.candidates("key", 5) == (4711,)


@pytest.mark.parametrize("name", NAMES)
def test_any_64_bits_are_a_hash(name: str) -> None:
    ring = build_ring(name, servers(7))
    edges = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    drawn = [random.Random(1).getrandbits(64) for _ in range(1000)]
    assert all(0 <= ring.pick_hash(hash) < 7 for hash in edges + drawn)


@pytest.mark.parametrize("name", [name for name in NAMES if DIALECTS[name].seeded])
def test_a_seed_changes_the_hash_of_keys(name: str) -> None:
    assert build_ring(name, servers(2), seed=1).hash("key") != build_ring(name, servers(2)).hash("key")


@pytest.mark.parametrize("name", [name for name in NAMES if not DIALECTS[name].seeded])
def test_a_seed_is_left_alone_where_the_dialect_has_its_own_hash(name: str) -> None:
    assert build_ring(name, servers(2), seed=1).hash("key") == build_ring(name, servers(2)).hash("key")


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(DIALECTS[name].make, PointRing)])
def test_lookup_agrees_with_bisection_at_and_around_every_point(name: str) -> None:
    ring: Any = build_ring(name, servers(20, [1, 2, 3, 7] * 5))
    points = ring.points()
    hashes = [hash for hash, _ in points]
    top = 2**64 if hashes[-1] >= 2**32 else 2**32
    assert hashes == sorted(hashes)
    asked = {(h + d) % top for h in hashes[::7] for d in (-1, 0, 1)} | {0, top - 1}
    for hash in asked:
        if name == "haproxy":
            at = bisect.bisect_left(hashes, hash)
            behind, before = at % len(points), (at - 1) % len(points)
            at = before if (hash - hashes[before]) % top <= (hashes[behind] - hash) % top else behind
            expected = {slot for h, slot in points if h == hashes[at]}
        elif name == "uhashring":
            expected = {points[bisect.bisect_right(hashes, hash) % len(points)][1]}
        else:
            expected = {points[bisect.bisect_left(hashes, hash) % len(points)][1]}
        assert ring.pick_hash(hash) in expected, hash


# ---- each alone ----


def test_rendezvous_wins_in_proportion_to_weight() -> None:
    ring = RendezvousRing(list("abcde"), [1, 2, 3, 7, 100])
    keys = 100_000
    found = Counter(ring.pick(f"k{i}") for i in range(keys))
    for slot, weight in enumerate([1, 2, 3, 7, 100]):
        expected = keys * weight / 113
        assert abs(found[slot] - expected) < 5 * math.sqrt(expected), slot


def _draw(hash: int, server: int) -> int:
    mask, z = 2**64 - 1, ((hash ^ server) + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_rendezvous_ranks_by_score_as_a_plain_reference_does() -> None:
    names, weights = [f"web-{i}" for i in range(12)], [1, 1, 1, 2, 2, 3, 7, 7, 7, 100, 65535, 1]
    ring, seeds = RendezvousRing(names, weights), [xxh64(name) for name in names]
    for key in KEYS:
        draws = [_draw(ring.hash(key), seed) for seed in seeds]
        scores = [-math.log2((z + 1) / 2**64) / weight for z, weight in zip(draws, weights, strict=True)]
        assert ring.candidates(key, 12) == tuple(sorted(range(12), key=scores.__getitem__))


def test_rendezvous_a_raised_weight_only_gains_keys() -> None:
    before, after = RendezvousRing(list("abcd"), [1, 1, 1, 1]), RendezvousRing(list("abcd"), [1, 1, 3, 1])
    moved = [(before.pick(key), after.pick(key)) for key in KEYS if before.pick(key) != after.pick(key)]
    assert moved
    assert {new for _, new in moved} == {2}


def test_rendezvous_exponential_is_minus_log2_to_nine_digits() -> None:
    drawn = [random.Random(2).getrandbits(64) for _ in range(2000)] + [
        2**64 - 2,
        2**63,
        2**63 - 1,
        1,
        2**53,
        2**64 - 2**40,
    ]
    for z in drawn:
        expected = -(math.log1p(-(2**64 - 1 - z) / 2**64) / math.log(2)) if z > 2**63 else -math.log2((z + 1) / 2**64)
        assert exponential(z) / 2**SCORE_BITS == pytest.approx(expected, rel=1e-9, abs=2.0**-56), z


def test_rendezvous_exponential_never_grows_with_its_argument() -> None:
    rows = [exponential(z) for z in range(2**64 - 1, 2**64 - 2**62, -(2**62) // 4001)]
    assert rows == sorted(rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rendezvous", "1156515315604156141544535654536234514326"), ("jump", "4524366364655666565323411031216115106362")],
)
def test_our_own_dialects_place_keys_alike_on_every_platform(name: str, expected: str) -> None:
    rows = [Server(f"10.0.0.{i}:80", name=f"web-{i}", weight=i) for i in range(1, 8)]
    ring = build_ring(name, rows)
    assert "".join(str(ring.pick(key)) for key in KEYS[:40]) == expected


def test_jump_moves_only_to_a_server_that_sorts_last() -> None:
    before, after = servers(5), [*servers(5), Server("99.0.0.1:8080")]
    old, new = picks(build_ring("jump", before), before), picks(build_ring("jump", after), after)
    assert {b for a, b in zip(old, new, strict=True) if a != b} == {"99.0.0.1:8080"}


def test_ketama_without_weights_has_100_points_per_server_and_with_them_160() -> None:
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5"]
    assert KetamaRing(hosts, [1] * 4).point_count == 400
    assert KetamaRing(hosts, [2] * 4).point_count == 640
    assert KetamaRing(hosts, [1] * 4, weighted=True).point_count == 640
    assert not KetamaRing(hosts, [1] * 4).weighted


def test_maglev_shares_the_table_by_weight() -> None:
    ring = MaglevRing([f"10.0.0.{i}:80" for i in range(5)], [1, 2, 3, 7, 100])
    found = Counter(ring.table())
    assert all(abs(found[slot] - 65537 * weight / 113) < 2 for slot, weight in enumerate([1, 2, 3, 7, 100]))


def test_envoy_ring_is_no_larger_than_its_bound() -> None:
    assert EnvoyRing(["a:1", "b:1"], [1, 65535], max_size=5000).point_count == 5000


def test_haproxy_map_takes_the_common_divisor_out() -> None:
    ring = HaproxyMap([1, 2, 3], [10, 20, 30])
    assert (ring.size, Counter(ring.map())) == (6, {0: 1, 1: 2, 2: 3})


def test_haproxy_ids_are_positions_or_the_next_number_free() -> None:
    rows = [Server("a:1"), Server("b:1", id=1), Server("c:1"), Server("d:1", id=9), Server("e:1")]
    assert haproxy_ids(rows) == [2, 1, 4, 9, 6]
    assert haproxy_ids([Server("a:1"), Server("b:1")]) == [1, 2]
    with pytest.raises(UsageError, match="same id 3"):
        haproxy_ids([Server("a:1", id=3), Server("b:1", id=3)])


@pytest.mark.parametrize(("text", "same"), [("Unix:/run/a", "unix:/run/a")])
def test_nginx_prefix_of_a_socket_is_of_any_case_and_not_hashed(text: str, same: str) -> None:
    assert NginxRing([text], [1]).points() == NginxRing([same], [1]).points()


def test_dialects_hash_what_their_table_says() -> None:
    row = Server("[::1]:11211", name="cache-1")
    other = Server("[::1]:11211", name="cache-2", hash_key="::1")
    assert build_ring("ketama", [row]).candidates("k", 1) == (0,)
    one, two = build_ring("ketama", [row]), build_ring("ketama", [other])
    assert isinstance(one, KetamaRing)
    assert isinstance(two, KetamaRing)
    assert one.points() == two.points()


# ---- bad input ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [1, 1.5, ["a"], bytearray(b"a"), object()])
def test_a_key_of_another_type_is_refused(name: str, key: Any) -> None:
    ring = build_ring(name, servers(2))
    for call in (ring.hash, ring.pick):
        with pytest.raises(UsageError, match="accepted are str"):
            call(key)
    with pytest.raises(UsageError, match="accepted are str"):
        ring.candidates(key, 1)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UsageError, match="surrogate"):
        build_ring("nginx", servers(2)).pick("\ud800")
    with pytest.raises(UsageError, match="surrogate"):
        NginxRing(["\ud800"], [1])


@pytest.mark.parametrize("hash", [-1, 2**64, 1.0, "1", True, None])
def test_a_hash_out_of_range_is_refused(hash: Any) -> None:
    with pytest.raises(UsageError, match="2\\*\\*64-1"):
        build_ring("nginx", servers(2)).pick_hash(hash)


@pytest.mark.parametrize("n", [-1, 1.0, True, "2"])
def test_a_count_of_candidates_out_of_range_is_refused(n: Any) -> None:
    with pytest.raises(UsageError, match="whole numbers from 0"):
        build_ring("nginx", servers(2)).candidates("k", n)


def test_an_unknown_dialect_or_option_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'katama' is unknown.*ketama, ketama-spy"):
        build_ring("katama", servers(2))
    with pytest.raises(UsageError, match="'size' is unknown; accepted: table_size"):
        build_ring("maglev", servers(2), size=7)
    with pytest.raises(UsageError, match="'size' is unknown; accepted: none"):
        build_ring("nginx", servers(2), size=7)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maglev", {"table_size": 65536}, "prime"),
        ("maglev", {"table_size": 5_000_077}, "5000011"),
        ("maglev", {"seed": -1}, "2\\*\\*64-1"),
        ("envoy-ring", {"hash": "md5"}, "xxh64, murmur2"),
        ("envoy-ring", {"min_size": 0}, "from 1 to 8388608"),
        ("envoy-ring", {"min_size": 20, "max_size": 10}, "above max_size"),
        ("ketama", {"hash": "sha1"}, "md5, default, fnv1a_32"),
        ("ketama", {"weighted": 1}, "True, False and None"),
        ("haproxy", {"function": "md5"}, "sdbm, djb2, wt6, crc32"),
        ("haproxy", {"avalanche": 1}, "True, False and None"),
        ("uhashring", {"hash": "md5"}, "default, ketama"),
        ("uhashring", {"vnodes": 0}, "from 1 to 65535"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_ring(name, servers(2), **options)


@pytest.mark.parametrize("name", ["haproxy", "haproxy-map"])
def test_haproxys_weights_end_at_256(name: str) -> None:
    with pytest.raises(UsageError, match="accepts 0 to 256"):
        build_ring(name, servers(2, [1, 257]))


def test_more_points_than_the_limit_are_refused() -> None:
    with pytest.raises(UsageError, match=str(POINTS_MAX)):
        build_ring("nginx", servers(2, [65535, 65535]))
    with pytest.raises(UsageError, match="16777216"):
        build_ring("jump", servers(300, [65535] * 300))


@pytest.mark.parametrize("make", [NginxRing, RendezvousRing, MaglevRing])
def test_rows_that_are_no_ring_are_refused(make: Any) -> None:
    for arguments, message in [
        ((["a", "a"], [1, 1]), "same key"),
        ((["a", "b"], [1, 1], [3, 3]), "same slot"),
        ((["a", "b"], [1]), "one of each"),
        ((["a"], [-1]), "0 to 65535"),
        ((["a"], [1.5]), "0 to 65535"),
        (([1], [1]), "str and bytes"),
        ((["a"], [1], [65535]), "0 to 65534"),
        (("ab", [1, 1]), "sequence"),
    ]:
        with pytest.raises(UsageError, match=message):
            make(*arguments)


@pytest.mark.parametrize("ids", [[0, 1], [1, 1], ["1", "2"], [1, 2**31], [True, 2]])
def test_haproxys_ids_are_checked(ids: Any) -> None:
    with pytest.raises(UsageError):
        HaproxyRing(ids, [1, 1])


def test_a_ring_is_built_once_and_the_base_not_at_all() -> None:
    with pytest.raises(UsageError, match="one of the dialects"):
        Ring()
    ring = NginxRing(["a:1"], [1])
    with pytest.raises(UsageError, match="built once"):
        ring.__init__(["b:1"], [1])  # type: ignore[misc]
    assert len(ring) == 1
