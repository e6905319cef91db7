"""Sealed messages of a fleet and the presence of its replicas: a store in this process, a clock that is moved."""

from __future__ import annotations

import msgpack
import pytest

from fastroute.clock import ManualClock
from fastroute.errors import UsageError
from fastroute.fleet.messages import FORMAT, MESSAGE_BYTES_MAX, Mail, Message, Seal, Versions, store_key
from fastroute.fleet.presence import FORGET_S, INTERVAL_S, REPLICAS_MAX, TTL_S, Presence, make_name, read_fleet
from tests.support.fleet_store import DictStore

SECRET, OTHER = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"
SAID = Message("health", "a", "a", 7, {"web": [1, 2.5, "x", b"y", None]})


def test_a_message_comes_back_as_it_was_sealed():
    seal = Seal([SECRET], "fr")
    assert seal.open("health", "a", seal.seal(SAID)) == SAID


@pytest.mark.parametrize(
    ("secrets", "fleet", "kind", "name"),
    [
        ([OTHER], "fr", "health", "a"),
        ([SECRET], "fq", "health", "a"),
        ([SECRET], "fr", "load", "a"),
        ([SECRET], "fr", "health", "b"),
    ],
    ids=["secret", "fleet", "kind", "name"],
)
def test_a_message_of_another_secret_fleet_kind_or_name_is_forged(secrets, fleet, kind, name):
    assert Seal(secrets, fleet).open(kind, name, Seal([SECRET], "fr").seal(SAID)) == "forged"


def test_every_flipped_bit_is_noticed():
    seal = Seal([SECRET], "fr")
    data = seal.seal(SAID)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        assert isinstance(seal.open("health", "a", bytes(changed)), str)


def test_every_cut_is_noticed():
    seal = Seal([SECRET], "fr")
    data = seal.seal(SAID)
    assert all(isinstance(seal.open("health", "a", data[:size]), str) for size in range(len(data)))


def test_an_unknown_format_is_told_apart_from_a_forgery():
    data = Seal([SECRET], "fr").seal(SAID)
    assert Seal([SECRET], "fr").open("health", "a", bytes([FORMAT + 1]) + data[1:]) == "format"


def test_a_key_ring_opens_what_an_older_secret_sealed_and_seals_with_the_first():
    old, both, new = Seal([SECRET], "fr"), Seal([OTHER, SECRET], "fr"), Seal([OTHER], "fr")
    assert both.open("health", "a", old.seal(SAID)) == SAID
    assert new.open("health", "a", both.seal(SAID)) == SAID
    assert old.open("health", "a", both.seal(SAID)) == "forged"


def test_a_member_that_says_something_else_is_malformed():
    seal = Seal([SECRET], "fr")
    real, msgpack.packb = msgpack.packb, lambda *_, **__: b"\x93\x01\x02\x03"
    try:
        data = seal.seal(SAID)
    finally:
        msgpack.packb = real
    assert seal.open("health", "a", data) == "malformed"


def test_too_much_and_what_is_no_plain_data_is_refused_before_it_is_sent():
    seal = Seal([SECRET], "fr")
    for body in (b"x" * MESSAGE_BYTES_MAX, object(), 1 << 70):
        with pytest.raises(UsageError):
            seal.seal(Message("k", "n", "s", 1, body))
    assert seal.open("k", "n", b"x" * (MESSAGE_BYTES_MAX + 1)) == "size"
    with pytest.raises(UsageError):
        Seal([], "fr")


def test_versions_grow_though_the_wall_clock_stands_or_goes_back():
    clock = ManualClock()
    versions = Versions(clock)
    first = versions.next()
    clock.advance(-3600)
    assert [versions.next() - first for _ in range(3)] == [1, 2, 3]
    assert versions.next(above=first + 100) == first + 101


async def test_forged_and_old_messages_are_counted_and_change_nothing():
    clock = ManualClock()
    store = DictStore(clock)
    writer, reader = (Mail(store.connect(), Seal([SECRET], "fr"), name, clock=clock) for name in "ab")
    await writer.publish("k", "n", 1, 60)
    first = store.items[store_key("fr", "k", "n")]
    await writer.publish("k", "n", 2, 60)
    assert (await reader.fetch("k", ["n"]))["n"].message.body == 2
    store.items[store_key("fr", "k", "n")] = first
    assert (await reader.fetch("k", ["n"]))["n"].message is None
    store.put(store_key("fr", "k", "n"), Seal([OTHER], "fr").seal(Message("k", "n", "a", 1 << 62, 3)), 60)
    assert (await reader.fetch("k", ["n"]))["n"].message is None
    assert reader.statistics.refused == {"old": 1, "forged": 1}
    assert reader.statistics.fetched == 1


async def test_a_message_replaces_only_what_was_read():
    clock = ManualClock()
    store = DictStore(clock)
    a, b = (Mail(store.connect(), Seal([SECRET], "fr"), name, clock=clock) for name in "ab")
    nothing = (await a.fetch("k", ["n"]))["n"]
    assert nothing == (None, True, None)
    assert await a.replace("k", "n", 1, 60, instead_of=nothing)
    assert await b.replace("k", "n", 2, 60, instead_of=nothing) is None
    seen = (await b.fetch("k", ["n"]))["n"]
    assert await b.replace("k", "n", 2, 60, instead_of=seen, above=seen.message.version) > seen.message.version
    assert await a.replace("k", "n", 3, 60, instead_of=seen) is None


# ---- presence


class World:
    def __init__(self, count: int) -> None:
        self.clock = ManualClock()
        self.store = DictStore(self.clock)
        self.lines, self.all = [], []
        for i in range(count):
            self.add(f"r{i}")

    def add(self, name: str) -> Presence:
        line = self.store.connect()
        mail = Mail(line, Seal([SECRET], "fr"), name, clock=self.clock)
        self.lines.append(line)
        self.all.append(Presence(mail, lambda: {"pid": len(name)}, clock=self.clock))
        return self.all[-1]

    async def turn(self, turns: int = 1, without: tuple[int, ...] = ()) -> None:
        for _ in range(turns):
            for i, presence in enumerate(self.all):
                if i not in without:
                    await presence.turn()
            self.clock.advance(INTERVAL_S)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
async def test_all_replicas_see_the_same_living_ones_after_two_turns(count):
    world = World(count)
    await world.turn(2)
    assert {one.names for one in world.all} == {tuple(f"r{i}" for i in range(count))}
    assert all(one.sees for one in world.all)
    assert world.all[0].live[-1].facts == {"pid": 2}


async def test_a_killed_replica_is_gone_after_its_time_and_one_that_leaves_at_once():
    world = World(3)
    await world.turn(2)
    await world.turn(2, without=(2,))
    assert world.all[0].names == ("r0", "r1", "r2")
    await world.turn(round(TTL_S), without=(2,))
    assert world.all[0].names == ("r0", "r1")
    await world.all[1].leave()
    await world.turn(1, without=(1, 2))
    assert world.all[0].names == ("r0",)


async def test_a_message_that_is_kept_in_place_does_not_keep_its_sender_alive():
    world = World(2)
    await world.turn(2)
    key = store_key("fr", "replica", "r1")
    world.store.put(key, world.store.items[key][0], 3600)
    await world.turn(round(TTL_S) + 1, without=(1,))
    assert world.all[0].names == ("r0",)


async def test_who_cannot_see_the_store_knows_of_itself_alone_and_comes_back():
    world = World(3)
    await world.turn(2)
    world.lines[1].cut = True
    await world.turn(round(TTL_S) + 1)
    assert (world.all[1].names, world.all[1].sees) == (("r1",), False)
    assert world.all[0].names == ("r0", "r2")
    world.lines[1].cut = False
    await world.turn(2)
    assert {one.names for one in world.all} == {("r0", "r1", "r2")}


async def test_a_directory_that_is_lost_or_forged_is_whole_again_after_a_turn():
    world = World(4)
    await world.turn(2)
    for change in (world.store.items.clear, lambda: world.store.put(store_key("fr", "directory", "all"), b"x" * 99, 9)):
        change()
        await world.turn(2)
        assert {one.names for one in world.all} == {("r0", "r1", "r2", "r3")}


async def test_a_replica_that_has_long_been_gone_leaves_the_directory():
    world = World(2)
    await world.turn(2)
    assert [one.name for one in await read_fleet(world.all[0]._mail)] == ["r0", "r1"]
    await world.turn(round(FORGET_S + TTL_S) + 3, without=(1,))
    raw = world.store.items[store_key("fr", "directory", "all")][0]
    assert Seal([SECRET], "fr").open("directory", "all", raw).body == ["r0"]


async def test_the_directory_holds_as_many_as_it_may():
    world = World(1)
    names = [f"x{i}" for i in range(REPLICAS_MAX)]
    world.store.put(
        store_key("fr", "directory", "all"), Seal([SECRET], "fr").seal(Message("directory", "all", "x", 1, names)), 60
    )
    await world.turn(2)
    raw = world.store.items[store_key("fr", "directory", "all")][0]
    listed = Seal([SECRET], "fr").open("directory", "all", raw).body
    assert len(listed) <= REPLICAS_MAX
    assert "r0" in listed


def test_names_of_replicas_are_fit_for_keys_and_never_twice_the_same():
    names = {make_name() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 64 and name.isascii() and " " not in name for name in names)
