"""Rules of one key's life: holds against ping-pong, absolute lifetime, on_failure = "fail", drain, release, touches."""

from __future__ import annotations

import pytest

from fastroute import Affinity, Pool, Router, Server
from fastroute._core.mc_reply import make_reply
from fastroute.affinity.agreement import AddThenGet, CasThenGet, Lookup
from fastroute.affinity.base import AffinityBase
from fastroute.affinity.binding import MIN_HOLD_S
from fastroute.affinity.record import Record, new_term, server_id, term_age_s
from fastroute.clock import ManualClock
from fastroute.errors import ConnectError, MemcacheDown, MemcacheUnknown, NoServerAvailable, UsageError
from fastroute.memcache.client import DOWN, MISS, UNKNOWN
from tests.support.register import Register

MINUTE = 30_000_000
NOW_S = MINUTE * 60 + 30
S1, S2, S3 = (server_id(f"S{n}") for n in (1, 2, 3))


def pool_of(*numbers: int) -> Pool:
    return Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in numbers])


class Steps(AffinityBase):
    """A replica whose steps the test takes, on registers."""

    def __init__(self, pool: Pool, *, homes: int = 1, on_failure: str = "move", **options) -> None:
        super().__init__(
            stored=True,
            ttl="30m",
            identity_secret=None,
            cookie_secrets=(),
            fleet="fr",
            zone=None,
            near_ttl="2s",
            clock=ManualClock(wall_s=NOW_S),
            **options,
        )
        self.pool = pool
        self.view = self.attach(pool, on_failure=on_failure)
        self.binder = self._binders[self.view]
        self.fingerprint = self.view.fingerprint(b"u")
        self.homes = [Register() for _ in range(homes)]
        self.asked = []

    def holds(self, *records: Record) -> None:
        for home, record in zip(self.homes, records, strict=True):
            home.ask(AddThenGet(record.pack(), 60))

    def run(self, steps):
        answer = None
        while True:
            try:
                command = steps.send(answer)
            except StopIteration as end:
                return end.value
            self.asked.append(command)
            answer = self.homes[command.home].ask(command)

    def bind(self, hint=None, *, now_s: int = NOW_S):
        minute, second = divmod(now_s, 60)
        return self.run(self.binder.bind(self.fingerprint, b"u", hint, minute, second=second, homes=len(self.homes)))

    def rebind(self, name: str, term: int, generation: int, *, own: bool = True, now_s: int = NOW_S):
        minute, second = divmod(now_s, 60)
        return self.run(
            self.binder.rebind(
                self.fingerprint,
                b"u",
                self.pool.slot_of(name),
                term,
                generation,
                minute,
                second=second,
                homes=len(self.homes),
                own=own,
            )
        )

    def name(self, bound) -> str:
        return self.pool.server_at(bound.slot).name

    def held(self) -> list[Record | None]:
        return [Record.unpack(home.data) for home in self.homes]


@pytest.fixture
def replica():
    made: list[Steps] = []

    def make(*arguments, **options) -> Steps:
        made.append(Steps(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one._close_zone()


def written(server: int, *, generation: int = 2, age_s: int = 1, writer: int = 99) -> Record:
    """A record that somebody wrote so long ago."""
    return Record(7, generation, server, writer, *divmod(NOW_S - age_s, 60))


# ---- the record


def test_record_keeps_the_second_it_was_written_in():
    record = written(S1, age_s=17)
    assert Record.unpack(record.pack()) == record
    assert record.age_s(NOW_S) == 17


def test_record_that_could_not_be_moved_any_more_is_none_and_its_key_is_bound_afresh(replica):
    assert Record.unpack(written(S2, generation=2**31).pack()) is not None
    forged = written(S2, generation=2**32 - 1)
    assert Record.unpack(forged.pack()) is None
    one = replica(pool_of(1, 2, 3))
    one.pool.set_state("S2", "down")
    one.holds(forged)
    bound = one.bind()
    assert (one.name(bound) != "S2", bound.generation) == (True, 1)
    assert one.held()[0].same_decision(Record(bound.term, 1, server_id(one.name(bound))))


def test_term_knows_its_age_and_is_hardly_drawn_twice():
    assert term_age_s(new_term(NOW_S), NOW_S + 3600) == 3600
    assert term_age_s(new_term(NOW_S + 60), NOW_S) == 0, "another machine's clock is ahead"
    assert len({new_term(NOW_S) for _ in range(1000)}) == 1000
    assert new_term(0) > 0


# ---- min_hold


def test_move_of_another_replica_is_not_undone_on_health_evidence_while_it_is_young(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S2, age_s=MIN_HOLD_S - 1))
    one.pool.set_state("S2", "down")
    bound = one.bind()
    assert (one.name(bound), bound.generation, one.homes[0].writes) == ("S2", 2, 1)


@pytest.mark.parametrize(
    "record",
    [
        written(S2, age_s=MIN_HOLD_S),
        written(S2, age_s=3600),
        written(S2, age_s=-3600),
        written(S2, generation=1),
    ],
    ids=["old enough", "old", "from a clock an hour ahead", "never moved"],
)
def test_other_records_are_moved_on_health_evidence(replica, record):
    one = replica(pool_of(1, 2, 3))
    one.holds(record)
    one.pool.set_state("S2", "down")
    bound = one.bind()
    assert (one.name(bound) != "S2", bound.generation) == (True, record.generation + 1)


def test_own_move_is_moved_on_whenever_its_server_fails(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S2, writer=one._writer))
    one.pool.set_state("S2", "down")
    assert one.name(one.bind()) != "S2"


def test_own_failed_attempt_undoes_a_young_move(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S2))
    one.pool.set_state("S2", "down")
    bound = one.rebind("S2", 7, 2)
    assert (one.name(bound) != "S2", bound.generation) == (True, 3)


def test_hearsay_does_not_undo_a_young_move(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S2))
    one.pool.set_state("S2", "down")
    bound = one.rebind("S2", 7, 2, own=False)
    assert (one.name(bound), bound.generation) == ("S2", 2)


def test_server_in_maintenance_is_never_held(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S2))
    one.pool.set_state("S2", "maintenance")
    assert one.name(one.bind()) != "S2"


async def test_router_tells_the_affinity_what_its_evidence_is():
    seen = []

    class Told(Affinity):
        async def rebind(self, view, key, failed_slot, term, generation, evidence=None):
            seen.append(evidence)
            return await super().rebind(view, key, failed_slot, term, generation, evidence)

    async with Told() as affinity:
        router = Router(pool_of(1, 2), affinity=affinity)
        error = ConnectError("refused", server="S1")
        moved = await router.move(await router.route("u"), error)
        await router.move(moved, "health")
        assert seen == [error, "health"]


# ---- max_lifetime


def test_binding_of_max_age_ends_and_is_made_afresh_however_busy_it_is(replica):
    one = replica(pool_of(1, 2, 3), max_lifetime=3600)
    first = one.bind()
    assert one.bind(now_s=NOW_S + 3599).term == first.term
    later = one.bind(now_s=NOW_S + 3600)
    assert (later.term != first.term, later.generation, later.reason) == (True, 1, "policy")
    assert one.held()[0].term == later.term
    assert one.bind(now_s=NOW_S + 3601).term == later.term


def test_move_does_not_make_a_binding_younger(replica):
    one = replica(pool_of(1, 2, 3), max_lifetime=3600)
    first = one.bind()
    moved = one.rebind(one.name(first), first.term, 1, now_s=NOW_S + 1800)
    assert moved.generation == 2
    assert one.bind(now_s=NOW_S + 3600).term != first.term


def test_cookie_or_zone_does_not_bring_back_a_binding_that_reached_its_lifetime(replica):
    one = replica(pool_of(1, 2, 3), max_lifetime=3600)
    old = new_term(NOW_S - 4000)
    assert one.bind(("S2", old, 3)).term != old
    other = replica(pool_of(1, 2, 3), max_lifetime=3600)
    other.view.learn(other.fingerprint, 0, old, 3)
    bound = other.bind()
    assert (bound.term != old, bound.generation) == (True, 1)


def test_two_replicas_end_a_binding_once(replica):
    one, two = (replica(pool_of(1, 2, 3), max_lifetime=3600) for _ in range(2))
    two.homes = one.homes
    old = one.bind()
    two.bind()
    assert one.bind(now_s=NOW_S + 4000).term == two.bind(now_s=NOW_S + 4000).term != old.term


async def test_lifetime_holds_in_the_zone_alone():
    clock = ManualClock(wall_s=NOW_S)
    async with Affinity(clock=clock, max_lifetime="1h") as affinity:
        router = Router(pool_of(1, 2, 3), affinity=affinity)
        first = await router.route("u")
        assert router.route_nowait("u").term == first.term
        view = next(iter(affinity._binders))
        clock.advance(3600)
        view.set_wall(int(clock.wall_s()))
        assert router.route_nowait("u") is None
        later = await router.route("u")
        assert (later.term != first.term, later.generation) == (True, 1)
        assert router.route_nowait("u").term == later.term


@pytest.mark.parametrize("value", [-1, "400d", 31_536_001])
def test_lifetime_out_of_range_is_refused(value):
    with pytest.raises(UsageError):
        Affinity(max_lifetime=value)


# ---- on_failure = "fail"


def test_key_of_a_server_that_is_down_is_refused_and_stays_bound(replica):
    one = replica(pool_of(1, 2, 3), on_failure="fail")
    first = one.bind()
    name = one.name(first)
    for state in ("down", "ejected"):
        one.pool.set_state(name, state)
        with pytest.raises(NoServerAvailable) as refused:
            one.bind()
        assert "on_failure" in refused.value.reasons[name]
    assert (one.homes[0].writes, one.held()[0].generation) == (1, 1)
    one.pool.set_state(name, "ready")
    assert one.name(one.bind()) == name


def test_failed_attempt_is_refused_too_and_writes_nothing(replica):
    one = replica(pool_of(1, 2, 3), on_failure="fail")
    first = one.bind()
    with pytest.raises(NoServerAvailable):
        one.rebind(one.name(first), first.term, 1)
    assert one.homes[0].writes == 1


def test_maintenance_and_leaving_the_pool_move_the_users_even_then(replica):
    one = replica(pool_of(1, 2, 3), on_failure="fail")
    name = one.name(one.bind())
    one.pool.set_state(name, "maintenance")
    assert one.name(one.bind()) != name
    other = replica(pool_of(1, 2, 3), on_failure="fail")
    gone = other.name(other.bind())
    other.pool.update([server for server in other.pool.servers if server.name != gone])
    assert other.name(other.bind()) != gone


def test_key_is_refused_while_the_store_is_away_too(replica):
    one = replica(pool_of(1, 2, 3), on_failure="fail")
    name = one.name(one.bind())
    one.homes[0].up = False
    one.pool.set_state(name, "down")
    with pytest.raises(NoServerAvailable):
        one.bind()


async def test_router_refuses_and_new_keys_go_elsewhere():
    async with Affinity() as affinity:
        pool = pool_of(1, 2, 3)
        router = Router(pool, affinity=affinity, on_failure="fail")
        selection = await router.route("u")
        pool.set_state(selection.server.name, "down")
        assert router.route_nowait("u") is None
        with pytest.raises(NoServerAvailable):
            await router.route("u")
        with pytest.raises(NoServerAvailable):
            await router.move(selection, ConnectError("refused", server=selection.server.name))
        assert (await router.route("another")).server is not selection.server
        pool.set_state(selection.server.name, "ready")
        assert (await router.route("u")).server is selection.server


# ---- drain


def test_draining_server_keeps_its_users_and_gets_no_new_ones(replica):
    one = replica(pool_of(1, 2))
    name = one.name(one.bind())
    one.pool.set_state(name, "draining")
    assert one.name(one.bind()) == name
    fingerprint = one.view.fingerprint(b"new")
    steps = one.binder.bind(fingerprint, b"new", None, MINUTE)
    assert Record.unpack(next(steps).record).server != server_id(name)


def test_end_of_a_drain_moves_each_user_once_as_it_comes(replica):
    one, two = replica(pool_of(1, 2, 3)), replica(pool_of(1, 2, 3))
    two.homes = one.homes
    name = one.name(one.bind())
    for each in (one, two):
        each.pool.set_state(name, "maintenance")
    first, second = one.bind(), two.bind()
    assert (first.slot, first.generation) == (second.slot, second.generation)
    assert (first.generation, one.homes[0].writes) == (2, 2)


# ---- sliding


def test_claim_of_a_known_binding_slides_what_stands(replica):
    one = replica(pool_of(1, 2, 3))
    one.bind(("S2", 7, 1))
    assert [type(command) for command in one.asked] == [AddThenGet]
    assert (one.asked[0].slide, one.asked[0].ttl_s) == (True, 1800)


def test_claim_of_an_unknown_key_lives_a_minute_and_slides_nothing(replica):
    one = replica(pool_of(1, 2, 3))
    one.bind()
    assert (one.asked[0].slide, one.asked[0].ttl_s) == (False, 60)


def test_verification_slides_the_home_and_says_so_to_no_other_node(replica):
    one = replica(pool_of(1, 2, 3), homes=2)
    one.bind()
    del one.asked[:]
    one.bind()
    assert one.asked == [Lookup(1800, 0)]


# ---- release


class Node:
    """A store of one node that answers everything alike."""

    timeout_s = 0.05

    def __init__(self, status: int) -> None:
        self.reply = make_reply(status)
        self.up_nodes = ("node",)

    def homes_of(self, name):
        return (self,)

    async def get(self, name, touch_s=None):
        return self.reply


@pytest.mark.parametrize(("status", "error"), [(DOWN, MemcacheDown), (UNKNOWN, MemcacheUnknown)])
async def test_release_that_the_store_did_not_take_raises(status, error):
    async with Affinity(Node(status)) as affinity:
        router = Router(pool_of(1, 2), affinity=affinity)
        with pytest.raises(error):
            await router.release("u")


async def test_release_says_what_came_of_it():
    async with Affinity(Node(MISS)) as affinity:
        assert await Router(pool_of(1, 2), affinity=affinity).release("u") == "absent"
    async with Affinity() as affinity:
        router = Router(pool_of(1, 2), affinity=affinity)
        await router.route("u")
        assert await router.release("u") == "released"
        assert await router.release("u") == "absent"
    assert await Router(pool_of(1, 2)).release("u") == "absent"


# ---- copies seen from the binding


def test_move_in_the_absence_of_home_is_the_followers_and_home_learns_it(replica):
    one, two = replica(pool_of(1, 2, 3), homes=2), replica(pool_of(1, 2, 3), homes=2)
    two.homes = one.homes
    first = one.bind()
    one.homes[0].up = False
    moved = one.rebind(one.name(first), first.term, 1)
    one.homes[0].up = True
    one.bind()
    assert one.held()[0].same_decision(one.held()[1])
    bound = two.bind()
    assert (bound.slot, bound.generation) == (moved.slot, 2)


def test_store_that_answers_nothing_leaves_the_deterministic_server(replica):
    one = replica(pool_of(1, 2, 3), homes=2)
    for home in one.homes:
        home.up = False
    bound = one.bind()
    assert (bound.reason, bound.kind) == ("fallback-hash", "down")


def test_compare_and_set_goes_to_the_home_its_token_came_from(replica):
    one = replica(pool_of(1, 2, 3), homes=3)
    for rank, home in enumerate(one.homes):
        home.connection = 10 + rank
    first = one.bind()
    one.rebind(one.name(first), first.term, 1)
    written = [command for command in one.asked if isinstance(command, CasThenGet)]
    assert [command.home for command in written] == [0, 1, 2]
    assert [command.token[0] for command in written] == [10, 11, 12]
    assert {record.generation for record in one.held()} == {2}
