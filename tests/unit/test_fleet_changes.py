"""What operators ordered for a fleet: records merge, replicas follow once, a store that lost it gets it back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fastroute.clock import ManualClock
from fastroute.errors import MemcacheDown, UsageError
from fastroute.fleet.changes import ENTRIES_MAX, KIND, NAME, NEUTRAL_KEPT_S, Entry, FleetChanges, Record
from fastroute.fleet.messages import Mail, Seal, store_key
from tests.support.fleet_store import DictStore

SECRET, OTHER = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"
DRAIN, READY = {"state": "draining", "weight": None, "deadline_at": None}, {"state": None, "weight": None}


class Replica:
    """One replica's part, and what it followed."""

    def __init__(self, store: Any, name: str, clock: Any, *, secret: bytes = SECRET, **keys: Any) -> None:
        self.followed: list[tuple[str, str, str]] = []
        self.kept: Any = None
        self.mail = Mail(store, Seal([secret], "fr"), name, clock=clock)
        keys.setdefault("follow", lambda entry: self.followed.append(entry.key))
        self.changes = FleetChanges(self.mail, keep=self._keep, clock=clock, **keys)

    def _keep(self, record: Any, followed: Any) -> None:
        self.kept = {"known": record, "followed": dict(followed)}

    def states(self) -> dict[str, Any]:
        return {one["server"]: one["state"] for one in self.changes.told()["entries"] if one["kind"] == "order"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_s=1_800_000_000.0)


def entry(server: str, at_us: int, by: str = "anna", value: dict[str, Any] = DRAIN) -> Entry:
    return Entry(("order", "app", server), value, at_us, by)


def test_records_merge_to_the_same_in_every_order():
    some = [
        entry("a", 5),
        entry("a", 7, value=READY),
        entry("a", 7, by="bert"),
        entry("b", 1),
        entry("b", 1, by="cleo"),
    ]
    merged = {str(sum_of(order).body()) for order in itertools.permutations(some)}
    assert len(merged) == 1
    assert Record.of(sum_of(some).body()) == sum_of(some)


def sum_of(entries: Any) -> Record:
    record = Record()
    for one in entries:
        record = record.merged(Record([one]))
    return record


@pytest.mark.parametrize("body", [None, 7, "x", [[]], [["order", "app"]], [["other", "app", "a", {}, 1, "x"]], [None]])
def test_what_is_not_understood_is_kept_out(body):
    assert Record.of(body).entries == {}


async def test_an_order_is_followed_by_all_once_and_by_those_that_start_later(clock):
    store = DictStore(clock).connect()
    one, two = Replica(store, "one", clock), Replica(store, "two", clock)
    await one.changes.order("app", "web-1", "draining", None, None, "anna@host")
    for _ in range(3):
        await one.changes.turn()
        await two.changes.turn()
    assert one.followed == []  # it did so itself when it was asked
    assert two.followed == [("order", "app", "web-1")]
    late = Replica(store, "late", clock)
    await late.changes.turn()
    assert late.states() == {"web-1": "draining"}
    assert late.changes.told()["entries"][0]["by"] == "anna@host"
    reloaded = Replica(store, "two", clock, **two.kept)
    await reloaded.changes.turn()
    assert reloaded.followed == []


async def test_two_that_order_at_once_lose_nothing(clock):
    store = DictStore(clock).connect()
    replicas = [Replica(store, name, clock) for name in ("one", "two", "three")]
    for number, replica in enumerate(replicas):
        await replica.changes.order("app", f"web-{number}", "maintenance", None, None, "x")
    for replica in replicas:
        await replica.changes.turn()
        assert replica.states() == dict.fromkeys(("web-0", "web-1", "web-2"), "maintenance")


async def test_the_later_order_of_a_server_stands_even_if_a_clock_is_behind(clock):
    store, behind = DictStore(clock).connect(), ManualClock(wall_s=1_700_000_000.0)
    one, two = Replica(store, "one", clock), Replica(store, "two", behind)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    await two.changes.order("app", "web-1", "maintenance", None, None, "x")
    await one.changes.turn()
    assert one.states() == two.states() == {"web-1": "maintenance"}


async def test_what_is_forged_changes_nothing_is_counted_and_is_written_over(clock):
    store = DictStore(clock).connect()
    one, forger = Replica(store, "one", clock), Replica(store, "forger", clock, secret=OTHER)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    await forger.changes.order("app", "web-2", "maintenance", None, None, "x")
    await one.changes.turn()
    assert one.states() == {"web-1": "draining"}
    assert one.mail.statistics.refused == {"forged": 1}
    await one.changes.turn()
    assert one.mail.statistics.refused == {"forged": 1}, "the fleet's own record stands there again"
    late = Replica(store, "late", clock)
    await late.changes.turn()
    assert late.states() == {"web-1": "draining"}


async def test_a_record_that_is_laid_back_does_not_bring_back_what_was_ordered_before(clock):
    store = DictStore(clock).connect()
    one = Replica(store, "one", clock)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    old = (await store.get(store_key("fr", KIND, NAME))).value
    await one.changes.order("app", "web-1", None, None, None, "x")
    await store.set(store_key("fr", KIND, NAME), old, 0)
    await one.changes.turn()
    late = Replica(store, "late", clock)
    await late.changes.turn()
    assert one.states() == late.states() == {}


async def test_a_store_that_lost_it_gets_it_back_from_whoever_looks_first(clock):
    store = DictStore(clock).connect()
    one, two = Replica(store, "one", clock), Replica(store, "two", clock)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    await two.changes.turn()
    await store.delete(store_key("fr", KIND, NAME))
    await two.changes.turn()
    assert (one.changes.restored, two.changes.restored) == (0, 1)
    late = Replica(store, "late", clock)
    await late.changes.turn()
    assert late.states() == {"web-1": "draining"}
    assert two.followed == [("order", "app", "web-1")]


async def test_a_replica_that_knew_less_restores_less_and_is_made_whole(clock):
    store = DictStore(clock).connect()
    one, two = Replica(store, "one", clock), Replica(store, "two", clock)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    await two.changes.turn()
    await one.changes.order("app", "web-2", "draining", None, None, "x")
    await store.delete(store_key("fr", KIND, NAME))
    await two.changes.turn()
    await one.changes.turn()
    await two.changes.turn()
    assert two.states() == {"web-1": "draining", "web-2": "draining"}


async def test_what_a_replica_cannot_follow_is_told_and_not_tried_in_a_loop(clock):
    tried = []

    def refuse(one: Entry) -> None:
        tried.append(one.key)
        raise UsageError("there is no pool 'app'")

    store = DictStore(clock).connect()
    await Replica(store, "one", clock).changes.order("app", "web-1", "draining", None, None, "x")
    two = Replica(store, "two", clock, follow=refuse)
    await two.changes.turn()
    await two.changes.turn()
    assert len(tried) == 1
    assert two.changes.told()["entries"][0]["note"] == "there is no pool 'app'"
    assert two.changes.told()["entries"][0]["followed"] is False


async def test_without_the_store_nothing_is_ordered_and_what_holds_stays(clock):
    store = DictStore(clock).connect()
    one = Replica(store, "one", clock)
    await one.changes.order("app", "web-1", "draining", None, None, "x")
    store.cut = True
    with pytest.raises(MemcacheDown):
        await one.changes.order("app", "web-2", "draining", None, None, "x")
    await one.changes.turn()
    assert one.states() == {"web-1": "draining"}
    assert one.changes.told()["store"] is False


async def test_the_record_is_bounded_and_forgets_what_orders_nothing_any_more(clock):
    store = DictStore(clock).connect()
    full = [entry(f"web-{n}", 1_800_000_000_000_000) for n in range(ENTRIES_MAX)]
    one = Replica(store, "one", clock, known=Record(full).body())
    with pytest.raises(UsageError, match="at most"):
        await one.changes.order("app", "one more", "draining", None, None, "x")
    two = Replica(DictStore(clock).connect(), "two", clock)
    await two.changes.order("app", "web-1", "draining", None, None, "x")
    await two.changes.order("app", "web-1", None, None, None, "x")
    clock.advance(NEUTRAL_KEPT_S + 1)
    await two.changes.order("app", "web-2", "draining", None, None, "x")
    assert [key[2] for key in two.changes.record.entries] == ["web-2"]
