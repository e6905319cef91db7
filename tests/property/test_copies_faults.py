"""A few replicas on two or three model nodes, seeded: partitions, restarts, lost replies, servers down; then agreement.

Smaller than the simulation of whole replicas: it drives the verbs of fastroute.affinity.copies alone, at every
interleaving of single commands. A failing seed is in the assertion's message; SEEDS holds how many are run.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fastroute.affinity.agreement import Answer, Decision, Heard
from fastroute.affinity.copies import claim, move, renew, touch
from fastroute.affinity.record import Record
from tests.support.register import Register

SEEDS = 400
SERVERS = range(1, 6)


def said(record: Record) -> tuple[int, int, int]:
    return record.term, record.generation, record.server


class World:
    """One run.

    Args:
        seed: of everything random.
        partitions, restarts: whether these happen.
    """

    def __init__(self, seed: int, *, partitions: bool, restarts: bool) -> None:
        self.random = random.Random(seed)
        self.partitions, self.restarts = partitions, restarts
        self.homes = [Register() for _ in range(self.random.choice((2, 2, 3)))]
        self.replicas = range(self.random.randint(2, 5))
        self.blocked: set[tuple[int, int]] = set()
        self.dead: list[set[int]] = [set() for _ in self.replicas]
        self.near: dict[int, Record] = {}
        self.decided: dict[tuple[int, int], set[int]] = {}
        self.went_back: list[tuple[Record, Record]] = []
        self.terms = 100
        self.lost_ratio = 0.02

    def fresh(self, replica: int) -> Record:
        self.terms += 1
        return Record(self.terms, 1, self.pick(replica))

    def pick(self, replica: int) -> int:
        return self.random.choice([server for server in SERVERS if server not in self.dead[replica]] or [9])

    def start(self, replica: int):
        """What a request through this replica makes it do."""
        known, homes = self.near.get(replica), len(self.homes)
        usable: Callable[[Record], bool] = lambda record: record.server not in self.dead[replica]  # noqa: E731
        if known is None:
            return claim(self.fresh(replica), 60, full_ttl_s=600, homes=homes), False
        if not usable(known):
            to = self.pick(replica)
            moved = lambda record: record.moved_to(to, writer=replica, minute=0)  # noqa: E731
            return move(known, None, moved, usable, lambda: self.fresh(replica), 600, homes=homes), False
        if self.random.random() < 0.3:
            return touch(600, homes=homes), True
        return renew(known, 600, homes=homes), False

    def ask(self, replica: int, command) -> Answer:
        if (replica, command.home) in self.blocked:
            return Answer(Heard.DOWN)
        answer = self.homes[command.home].ask(command)
        return Answer(Heard.UNKNOWN) if self.random.random() < self.lost_ratio else answer

    def told(self, replica: int, decision: Decision, by_touch: bool) -> None:
        record, known = decision.record, self.near.get(replica)
        if record is None or (by_touch and known is not None and known.outranks(record)):
            return  # the zone keeps a later decision of the term
        if known is not None and known.outranks(record):
            self.went_back.append((known, record))
        self.decided.setdefault((record.term, record.generation), set()).add(record.server)
        self.near[replica] = record

    def event(self) -> None:
        what, replica, home = self.random.random(), self.random.choice(self.replicas), self.random.randrange(3)
        home %= len(self.homes)
        if self.partitions and what < 0.3:
            self.blocked.add((replica, home))
        elif self.partitions and what < 0.6:
            self.blocked.discard((replica, home))
        elif self.restarts and what < 0.75:
            self.homes[home].restart()
        elif what < 0.9:
            self.dead[replica].add(self.random.choice(SERVERS))
        else:
            self.dead[replica].clear()

    def run(self) -> None:
        """The time of faults, then one touch and one request per replica without."""
        active: dict[int, list] = {}
        for _ in range(self.random.randint(20, 150)):
            if self.random.random() < 0.1:
                self.event()
                continue
            replica = self.random.choice(self.replicas)
            if replica not in active:
                steps, by_touch = self.start(replica)
                active[replica] = [steps, next(steps), by_touch]
            steps, command, by_touch = active[replica]
            try:
                active[replica][1] = steps.send(self.ask(replica, command))
            except StopIteration as end:
                del active[replica]
                self.told(replica, end.value, by_touch)
        self.blocked.clear()
        self.lost_ratio = 0.0
        for one in self.dead:
            one.clear()
        for replica, (steps, command, by_touch) in active.items():
            self.finish(replica, steps, command, by_touch)
        for _ in range(2):
            for replica in self.replicas:
                known = self.near.get(replica)
                steps = renew(known, 600, homes=len(self.homes)) if known else self.start(replica)[0]
                self.finish(replica, steps, next(steps), False)
            steps = touch(600, homes=len(self.homes))
            self.finish(0, steps, next(steps), True)

    def finish(self, replica: int, steps, command, by_touch: bool) -> None:
        for _ in range(100):
            try:
                command = steps.send(self.ask(replica, command))
            except StopIteration as end:
                self.told(replica, end.value, by_touch)
                return
        raise AssertionError("a verb went on for longer than its bound")


@pytest.mark.parametrize(
    ("partitions", "restarts"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["lost replies", "partitions", "restarts", "both"],
)
def test_after_faults_all_agree_copies_are_equal_and_nobody_goes_back(partitions, restarts):
    for seed in range(SEEDS):
        world = World(seed, partitions=partitions, restarts=restarts)
        world.run()
        assert len({said(record) for record in world.near.values()}) == 1, f"I10: seed {seed}"
        held = [Record.unpack(home.data) for home in world.homes]
        assert len({said(record) for record in held if record}) == 1, f"I10, copies: seed {seed}"
        assert None not in held, f"I10, copies: seed {seed}"
        assert not world.went_back, f"I4: seed {seed}"


def test_while_nodes_live_and_are_reached_a_decision_has_one_server_whatever_replies_are_lost():
    for seed in range(SEEDS):
        world = World(seed, partitions=False, restarts=False)
        world.lost_ratio = 0.1
        world.run()
        assert all(len(servers) == 1 for servers in world.decided.values()), f"I1: seed {seed}"
