"""The agreement simulated: many seeds hold every invariant, one seed is one run, deliberate bugs are caught."""

from __future__ import annotations

import gc
import os

import pytest

from tests.simulation.agreement.bugs import BUGS
from tests.simulation.agreement.invariants import Violation
from tests.simulation.agreement.simulation import EVENTS, run

SEEDS = int(os.environ.get("FASTROUTE_SIMULATION_SEEDS", "500"))
PART = 50
SEEDS_PER_BUG = 80


@pytest.fixture(autouse=True)
def frozen_heap():
    """Runs make cycles by the thousand; collecting them must not look at everything else each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("first", range(1, SEEDS + 1, PART))
def test_invariants_hold_in_every_run(first):
    for seed in range(first, min(first + PART, SEEDS + 1)):
        outcome = run(seed)
        assert outcome.events >= EVENTS
        if seed % 10 == 0:
            gc.collect()


def test_one_seed_is_one_run():
    once, again = run(11, trace=True), run(11, trace=True)
    assert once.trace == again.trace
    assert (once.digest, once.events, once.counts) == (again.digest, again.events, again.counts)
    assert run(12).digest != once.digest


def test_a_failing_seed_fails_again_in_the_same_way_and_says_how_to_replay_it():
    bug, options = BUGS["term changed on move"]
    failures = []
    with bug():
        for _ in range(2):
            for seed in range(1, SEEDS_PER_BUG):
                try:
                    run(seed, **options)
                except Violation as violation:
                    failures.append((seed, str(violation), violation.__notes__))
                    break
    assert len(failures) == 2
    assert failures[0] == failures[1]
    assert f"--seed {failures[0][0]} --trace" in failures[0][2][0]


@pytest.mark.parametrize("name", BUGS)
def test_a_deliberate_bug_is_caught(name):
    bug, options = BUGS[name]
    with bug():
        for seed in range(1, SEEDS_PER_BUG + 1):
            try:
                run(seed, **options)
            except Violation:
                return
    pytest.fail(f"{SEEDS_PER_BUG} seeds did not catch: {name}")


@pytest.mark.parametrize("name", BUGS)
def test_what_catches_a_bug_is_the_bug(name):
    """The same runs without it pass: the options that bring a run near a bug break nothing by themselves."""
    _, options = BUGS[name]
    if options:
        for seed in range(1, 8):
            run(seed, **options)
