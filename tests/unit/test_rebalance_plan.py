"""Who gives idle bindings, who takes them, and how many in a second."""

from __future__ import annotations

import bisect
import random

import pytest

from fastroute.admin.rebalance_plan import Budget, Member, plan_of


@pytest.mark.parametrize(
    ("members", "gives", "takes"),
    [
        ([], {}, {}),
        ([("a", 10)], {}, {}),
        ([("a", 10), ("b", 10)], {}, {}),
        ([("a", 10), ("b", 11)], {}, {}),
        ([("a", 10), ("b", 12)], {"b": 1}, {"a": 1}),
        ([("a", 30), ("b", 30), ("new", 0)], {"a": 10, "b": 10}, {"new": 20}),
        ([("a", 40), ("b", 40), ("new", 0)], {"a": 13, "b": 13}, {"new": 26}),
        ([("a", 30, 1), ("b", 30, 1), ("new", 0, 2)], {"a": 15, "b": 15}, {"new": 30}),
        ([("a", 5, 3), ("b", 5, 1)], {"b": 2}, {"a": 2}),
        ([("a", 0), ("b", 0)], {}, {}),
    ],
)
def test_who_has_more_than_its_share_gives_to_who_has_less(members, gives, takes):
    plan = plan_of(Member(name, bindings, *weight) for name, bindings, *weight in members)
    assert (plan.gives, plan.takes) == (gives, takes)


@pytest.mark.parametrize(
    "out",
    [
        {"ready": False},
        {"backup": True},
        {"weight": 0},
    ],
)
@pytest.mark.parametrize("bindings", [0, 90])
def test_who_is_not_ready_a_backup_or_of_weight_0_neither_gives_nor_takes_nor_counts(out, bindings):
    plan = plan_of([Member("a", 30), Member("b", 10), Member("out", bindings, **out)])
    assert (plan.gives, plan.takes) == ({"a": 10}, {"b": 10})


def test_a_slow_start_takes_no_more_than_its_present_weight_and_costs_nobody_its_users():
    early = plan_of([Member("a", 50), Member("new", 0, 1, 0.25)])
    assert (early.gives, early.takes, early.left) == ({"a": 25}, {"new": 10}, 10)
    back = plan_of([Member("a", 50), Member("back", 50, 1, 0.1)])
    assert back.left == 0


def test_moves_end_even_and_nobody_ever_has_taken_above_its_share():
    rng = random.Random(7)
    for _ in range(300):
        members = [Member(f"s{n}", rng.randrange(200), rng.randrange(1, 5)) for n in range(rng.randrange(2, 8))]
        total, weights = sum(one.bindings for one in members), sum(one.weight for one in members)
        have = {one.name: one.bindings for one in members}
        share = {one.name: total * one.weight / weights for one in members}
        plan = plan_of(members)
        while plan.left:
            giver, taker = plan.givers()[0], plan.taker()
            assert taker is not None
            plan.moved(giver, taker)
            have[giver] -= 1
            have[taker] += 1
            assert have[taker] <= share[taker]
            assert have[giver] >= share[giver]
        after = plan_of(Member(one.name, have[one.name], one.weight) for one in members)
        assert after.left == 0


def test_no_more_than_the_budget_in_any_second_and_all_of_it_is_used():
    for per_second in (1, 2, 7, 50, 1000):
        budget, made = Budget(per_second, 0.2), []
        for turn in range(50):
            now_s = 100 + turn * 0.2
            for _ in range(budget.allowed(now_s)):
                budget.spend(now_s)
                made.append(now_s)
        for start in sorted(set(made)):  # in order, so that those of a second stand together
            assert bisect.bisect_left(made, start + 1.0 - 1e-9) - bisect.bisect_left(made, start) <= per_second
        assert len(made) >= per_second * 9


def test_a_turn_gets_its_part_of_a_second():
    budget = Budget(10, 0.2)
    assert budget.allowed(5.0) == 2
    budget.spend(5.0)
    budget.spend(5.0)
    assert budget.allowed(5.2) == 2
    assert Budget(1, 0.2).allowed(0.0) == 1
