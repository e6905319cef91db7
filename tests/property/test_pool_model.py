"""A pool under any sequence of changes and requests, beside a model of dicts."""

import string

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from fastroute import Server
from fastroute.errors import NoServerAvailable
from fastroute.model import STATES
from fastroute.routing.pool import Pool

NAMES = list(string.ascii_lowercase[:10])
KEYS = [f"key-{number}" for number in range(40)]
SERVERS = st.lists(
    st.builds(
        lambda name, weight, backup: Server(f"{name}.example:80", name=name, weight=weight, backup=backup),
        st.sampled_from(NAMES),
        st.sampled_from([0, 1, 1, 1, 2, 7]),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=10,
    unique_by=lambda server: server.name,
)


class PoolMachine(RuleBasedStateMachine):
    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.pools = {policy: Pool("app", [], policy=policy, slots=64) for policy in ("round-robin", "random", "hash")}
        self.servers: dict[str, Server] = {}
        self.states: dict[str, str] = {}
        self.in_flight: dict[str, int] = {}
        self.slots: dict[str, int] = {}

    def each(self):
        return self.pools.values()

    def eligible(self) -> list[Server]:
        ready = [server for name, server in self.servers.items() if self.states[name] == "ready" and server.weight]
        return [server for server in ready if not server.backup] or ready

    @initialize(weights=st.lists(st.sampled_from([1, 1, 3]), min_size=len(NAMES), max_size=len(NAMES)))
    def begin_with_all(self, weights):
        self.update_to(
            [Server(f"{name}.example:80", name=name, weight=w) for name, w in zip(NAMES, weights, strict=True)]
        )

    @rule(servers=SERVERS)
    def update(self, servers):
        self.update_to(servers)

    @rule(gone=st.sets(st.sampled_from(NAMES), max_size=4))
    def leave(self, gone):
        self.update_to([server for name, server in self.servers.items() if name not in gone])

    @rule(back=st.sets(st.sampled_from(NAMES), max_size=6))
    def join(self, back):
        servers = {name: Server(f"{name}.example:80", name=name) for name in sorted(back)}
        self.update_to([*{**servers, **self.servers}.values()])

    def update_to(self, servers):
        for pool in self.each():
            pool.update(servers)
        self.servers = {server.name: server for server in servers}
        self.states = {name: self.states.get(name, "ready") for name in self.servers}
        self.in_flight = {name: self.in_flight.get(name, 0) for name in self.servers}

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=5), state=st.sampled_from((*STATES, "ready")))
    def set_state(self, names, state):
        for name in sorted(names & set(self.servers)):
            for pool in self.each():
                pool.set_state(name, state)
            self.states[name] = state

    @rule(name=st.sampled_from(NAMES), weight=st.integers(0, 9))
    def set_weight(self, name, weight):
        if name in self.servers:
            for pool in self.each():
                pool.set_weight(name, weight)
            self.servers[name] = self.servers[name].replace(weight=weight)

    @rule(target=requests, key=st.sampled_from(KEYS))
    def begin(self, key):
        try:
            request = self.pools["hash"].request(key)
        except NoServerAvailable:
            return multiple()
        request.__enter__()
        self.in_flight[request.server.name] += 1
        return request, self.generation_of(request.server.name)

    def generation_of(self, name):
        """What tells a server from another that came later under the same name: its slot."""
        return self.pools["hash"].slot_of(name)

    @rule(pair=consumes(requests))
    def end(self, pair):
        request, slot = pair
        request.__exit__(None, None, None)
        if self.pools["hash"].slot_of(request.server.name) == slot and self.in_flight.get(request.server.name):
            self.in_flight[request.server.name] -= 1

    @invariant()
    def only_eligible_servers_are_picked(self):
        names = {server.name for server in self.eligible()}
        for pool in self.each():
            try:
                assert {server.name for server in pool.select_many(KEYS)} <= names
            except NoServerAvailable as error:
                raised = error
            else:
                raised = None
            assert (raised is not None) == (not names)
            assert raised is None or set(raised.reasons) == set(self.servers)

    @invariant()
    def the_hash_answer_and_every_fallback_are_those_of_a_ring_over_the_eligible(self):
        fresh = Pool("app", [server.replace(backup=False) for server in self.eligible()], policy="hash", slots=64)
        if len(fresh):
            expected = [server.name for server in fresh.select_many(KEYS)]
            assert [server.name for server in self.pools["hash"].select_many(KEYS)] == expected
            for pool in self.each():
                found = [pool.server_at(pool.fallback_slots(key.encode(), 1)[0]).name for key in KEYS]
                assert found == expected

    @invariant()
    def another_pick_is_never_a_tried_one(self):
        count = len(self.eligible())
        for pool in self.each():
            tried: list[int] = []
            for _ in range(count):
                tried.append(pool.pick_other_slot(b"some key", tried))
            assert -1 not in tried
            assert len(set(tried)) == count
            assert pool.pick_other_slot(b"some key", tried) == -1

    @invariant()
    def what_stands_is_what_was_told(self):
        for pool in self.each():
            assert [server.name for server in pool.servers] == sorted(self.servers)
            for row in pool.statistics().servers:
                assert (row.state, row.weight) == (self.states[row.name], self.servers[row.name].weight)
                assert pool.may_take_bound(pool.slot_of(row.name)) == (row.state in ("ready", "draining"))

    @invariant()
    def a_name_keeps_its_slot_and_its_count_while_it_stays(self):
        pool = self.pools["hash"]
        slots = {name: pool.slot_of(name) for name in self.servers}
        for name, slot in slots.items():
            assert pool.server_at(slot).name == name
            assert self.slots.get(name, slot) == slot
        assert len(set(slots.values())) == len(slots)
        self.slots = slots
        for row in pool.statistics().servers:
            assert row.in_flight == self.in_flight[row.name]


PoolMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
test_a_pool_does_what_its_model_does = PoolMachine.TestCase
