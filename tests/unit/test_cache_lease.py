"""The claim, step by step: what each reply of the store leads to. No store, no time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from fastroute._core.mc_reply import DOWN, EXISTS, HIT, MISS, NOT_FOUND, SERVER_ERROR, STORED, UNKNOWN
from fastroute.cache.codec import Codec, pack
from fastroute.cache.lease import (
    PAUSE_S_MAX,
    STORE_TTL_S_MAX,
    TAKE_OVERS_MAX,
    Claim,
    Lifetime,
    Outcome,
    Pause,
    Read,
    TakeOver,
    claim,
    store_ttl_s,
)
from fastroute.errors import UsageError

CODEC, DIGEST, NOW_MS = Codec(), b"d" * 32, 1_800_000_000_000


class Answer(NamedTuple):
    status: int
    value: bytes | None = None
    won: bool = False
    token: Any = "token"


def sealed(age_ms: int, digest: bytes = DIGEST) -> bytes:
    return CODEC.seal(digest, pack("v"), made_ms=NOW_MS - age_ms, ttl_ms=1000, stale_ms=500)


def run(answers: Iterable[Answer], **options: Any) -> tuple[Claim, list[Any]]:
    """Feeds the answers to what asks for one; returns the result and every step."""
    steps = claim(CODEC, DIGEST, now_ms=lambda: NOW_MS, random_=lambda: 0.5, **options)
    waiting, seen, answer = iter(answers), [], None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value, seen
        seen.append(step)
        answer = None if isinstance(step, Pause) else next(waiting)


def test_a_fresh_value_is_the_result() -> None:
    found, steps = run([Answer(HIT, sealed(999))])
    assert (found.outcome, found.entry and found.entry.value, len(steps)) == (Outcome.FRESH, "v", 1)


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
        (b"\x02" + sealed(0)[1:], "format"),
        (b"\x80\x04K\x01.", "format"),
        (sealed(0)[:-1] + b"\xc1", "corrupt"),
    ],
)
def test_an_unusable_value_is_taken_over(value: bytes, reason: str) -> None:
    found, steps = run([Answer(HIT, value, token="old"), Answer(STORED, token="new")])
    assert (found.outcome, found.token, found.rejected) == (Outcome.WON, "new", (reason,))
    assert steps[1] == TakeOver("old")


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
    assert Lifetime.of("2s", 1, "500ms") == Lifetime(2000, 1000, 500)
    for ttl in (0, -1, "x", None, float("nan"), 0.0001, True):
        with pytest.raises(UsageError, match="ttl"):
            Lifetime.of(ttl)
    with pytest.raises(UsageError, match="stale"):
        Lifetime.of(1, "x")
    with pytest.raises(UsageError, match="negative_ttl"):
        Lifetime.of(1, 0, "x")


def test_the_stores_time_to_live_is_neither_shorter_nor_for_ever() -> None:
    assert store_ttl_s(1, 0) == 2
    assert store_ttl_s(1000, 500) == 3
    assert store_ttl_s(10**12, 0) == STORE_TTL_S_MAX
