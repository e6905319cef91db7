"""The claim, step by step: what each reply of the store leads to. No store, no time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from fastroute._core.mc_reply import DOWN, EXISTS, HIT, MISS, NOT_FOUND, SERVER_ERROR, STORED, UNKNOWN
from fastroute.cache.codec import Codec, Life
from fastroute.cache.lease import (
    PAUSE_S_MAX,
    STORE_TTL_S_MAX,
    TAKE_OVERS_MAX,
    Claim,
    Lease,
    Lifetime,
    Lock,
    Outcome,
    Pause,
    Read,
    TakeOver,
    claim,
    judge,
    soon_due,
    store_ttl_s,
)
from fastroute.cache.values import pack
from fastroute.errors import UsageError

CODEC, DIGEST, NOW_MS = Codec(), b"d" * 32, 1_800_000_000_000


class Answer(NamedTuple):
    status: int
    value: bytes | None = None
    won: bool = False
    token: Any = "token"


def sealed(age_ms: int, digest: bytes = DIGEST, error_ms: int = 0) -> bytes:
    found = CODEC.seal(
        digest, pack("v"), made_ms=NOW_MS - age_ms, ttl_ms=1000, stale_ms=500, error_ms=error_ms, generation=7
    )
    assert found is not None
    return found.envelope


def run(answers: Iterable[Answer], **options: Any) -> tuple[Claim, list[Any]]:
    """Feeds the answers to what asks for one; returns the result and every step."""
    steps = claim(random_=lambda: 0.5, **options)
    waiting, seen, answer = iter(answers), [], None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value, seen
        seen.append(step)
        answer = None if isinstance(step, Pause) else next(waiting)
        if isinstance(step, Read):
            answer = judge(answer, CODEC, DIGEST, NOW_MS, 7, "home")


def test_a_fresh_value_is_the_result() -> None:
    found, steps = run([Answer(HIT, sealed(999))])
    assert (found.outcome, found.seen.entry and found.seen.entry.value, len(steps)) == (Outcome.FRESH, "v", 1)


def test_a_stale_value_is_the_result_with_its_token() -> None:
    found, _ = run([Answer(HIT, sealed(1000), token="t1")])
    assert (found.outcome, found.token) == (Outcome.STALE, "t1")


def test_an_empty_value_that_was_won_is_the_lease() -> None:
    found, _ = run([Answer(HIT, b"", won=True, token="stub")])
    assert (found.outcome, found.token, found.pauses) == (Outcome.WON, "stub", 0)


def test_an_empty_value_of_somebody_else_is_waited_for() -> None:
    found, steps = run([Answer(HIT, b"")] * 3 + [Answer(HIT, sealed(0))])
    assert (found.outcome, found.pauses) == (Outcome.FRESH, 3)
    assert [type(step) for step in steps] == [Read, Pause, Read, Pause, Read, Pause, Read]
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    assert pauses == sorted(pauses)


def test_a_stub_that_ran_out_makes_the_next_reader_the_winner() -> None:
    found, _ = run([Answer(HIT, b""), Answer(HIT, b"", won=True)])
    assert found.outcome is Outcome.WON


def test_waiting_has_a_limit() -> None:
    found, steps = run([Answer(HIT, b"")] * 10_000, waited_s_max=3.0)
    assert found.outcome is Outcome.ALONE
    assert 3.0 <= sum(step.seconds for step in steps if isinstance(step, Pause)) <= 3.0 + 1.5 * PAUSE_S_MAX


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (sealed(1500), "expired"),
        (sealed(0, b"e" * 32), "key"),
        (b"\x03" + sealed(0)[1:], "format"),
        (b"\x80\x04K\x01.", "format"),
        (sealed(0)[:-1] + b"\xc1", "corrupt"),
    ],
)
def test_an_unusable_value_is_taken_over(value: bytes, reason: str) -> None:
    found, steps = run([Answer(HIT, value, token="old"), Answer(STORED, token="new")])
    assert (found.outcome, found.token, found.rejected) == (Outcome.WON, "new", (reason,))
    assert isinstance(steps[1], TakeOver)
    assert (steps[1].seen.token, steps[1].seen.home) == ("old", "home")


@pytest.mark.parametrize("status", [EXISTS, NOT_FOUND])
def test_a_take_over_that_somebody_forestalled_reads_again(status: int) -> None:
    found, _ = run([Answer(HIT, b"junk"), Answer(status), Answer(HIT, sealed(0))])
    assert found.outcome is Outcome.FRESH


def test_taking_over_has_a_limit() -> None:
    found, steps = run([Answer(HIT, b"junk"), Answer(EXISTS)] * 100)
    assert found.outcome is Outcome.ALONE
    assert len([step for step in steps if isinstance(step, TakeOver)]) == TAKE_OVERS_MAX


@pytest.mark.parametrize("status", [DOWN, UNKNOWN, SERVER_ERROR, MISS])
def test_a_store_that_says_nothing_is_away(status: int) -> None:
    assert run([Answer(status)])[0].outcome is Outcome.AWAY
    if status != MISS:
        assert run([Answer(HIT, b"junk"), Answer(status)])[0].outcome is Outcome.AWAY


def test_a_lifetime_is_checked() -> None:
    assert Lifetime.of("2s", 1, "500ms", "3s") == Lifetime(Life(2000, 1000, 3000), 500)
    for ttl in (0, -1, "x", None, float("nan"), 0.0001, True):
        with pytest.raises(UsageError, match="ttl"):
            Lifetime.of(ttl)
    with pytest.raises(UsageError, match="stale"):
        Lifetime.of(1, "x")
    with pytest.raises(UsageError, match="negative_ttl"):
        Lifetime.of(1, 0, "x")


def test_the_stores_time_to_live_is_neither_shorter_nor_for_ever() -> None:
    assert store_ttl_s(Life(1)) == 2
    assert store_ttl_s(Life(1000, 500)) == 3
    assert store_ttl_s(Life(1000, 500, 9000)) == 11
    assert store_ttl_s(Life(10**12)) == STORE_TTL_S_MAX


def test_a_value_of_another_generation_is_unusable() -> None:
    assert judge(Answer(HIT, sealed(0)), CODEC, DIGEST, NOW_MS, 8).reason == "purged"
    assert judge(Answer(HIT, sealed(0)), CODEC, DIGEST, NOW_MS).outcome is Outcome.FRESH


def test_a_value_over_its_stale_time_is_kept_for_errors_and_replaced_under_a_lock() -> None:
    found, steps = run([Answer(HIT, sealed(1600, error_ms=5000)), Answer(HIT, b"", won=True, token="lock")])
    assert (found.outcome, found.token) == (Outcome.KEPT, "lock")
    assert [type(step) for step in steps] == [Read, Lock]
    assert judge(Answer(HIT, sealed(6000, error_ms=5000)), CODEC, DIGEST, NOW_MS).reason == "expired"


def test_who_does_not_get_the_lock_waits_for_the_successor() -> None:
    kept = Answer(HIT, sealed(1600, error_ms=5000))
    found, steps = run([kept, Answer(HIT, b""), kept, Answer(HIT, b""), Answer(HIT, sealed(0))])
    assert (found.outcome, found.pauses) == (Outcome.FRESH, 2)
    assert [type(step) for step in steps] == [Read, Lock, Pause, Read, Lock, Pause, Read]


def test_an_early_refresh_grows_likelier_towards_the_end_and_with_the_cost() -> None:
    def share(compute_ms: int, left_ms: int) -> float:
        found = CODEC.seal(DIGEST, pack("v"), made_ms=NOW_MS, ttl_ms=10_000, compute_ms=compute_ms)
        assert found is not None
        entry = CODEC.open(DIGEST, found.envelope)
        assert not isinstance(entry, str)
        rolls = [(n + 0.5) / 1000 for n in range(1000)]
        return sum(soon_due(entry, NOW_MS + 10_000 - left_ms, lambda roll=roll: roll) for roll in rolls) / 1000

    assert share(0, 1) == 0
    assert share(100, 9_000) == 0
    assert share(100, 1_000) < 0.001
    assert 0.3 < share(100, 100) < 0.45
    assert 0.85 < share(1000, 100) < 0.95


def test_a_lease_remembers_its_newest_token_and_its_loss() -> None:
    lease = Lease("home", "key", "one")
    assert lease.renewed(Answer(STORED, token="two"))
    assert lease.renewed(Answer(UNKNOWN, token=None))
    assert lease.token == "two"
    assert not lease.renewed(Answer(EXISTS))
    assert lease.lost
