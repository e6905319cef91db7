"""The codec and those who ask: who hears of an answer and when, and what they may do within it."""

from __future__ import annotations

from typing import Any

import pytest

from fastroute._core import mc_queue
from fastroute.errors import UsageError
from tests.support.mc_rig import Rig, Waiter, statuses

# -- who hears of it, and when ----------------------------------------------------------------------------------------


def test_a_lone_request_is_written_at_once_and_company_is_waited_for_again() -> None:
    rig, written = Rig(), []
    rig.codec.on_burst = lambda: written.append(rig.codec.take())
    rig.codec.get("a")  # nothing is known of the load yet: the turn's end
    assert (rig.notified, written) == (1, [])
    rig.codec.take()
    rig.codec.feed(b"EN\r\n")
    rig.codec.get("b")  # alone, as the one before
    assert (rig.notified, len(written)) == (1, 1)
    rig.codec.get("c")  # beside it
    assert (rig.notified, len(written)) == (2, 1)
    rig.codec.take()
    rig.codec.feed(b"EN\r\nEN\r\n")
    rig.codec.get("d")  # not alone the last time
    assert (rig.notified, len(written)) == (3, 1)


def test_a_reply_is_given_to_who_was_named_for_it() -> None:
    rig, named = Rig(), Waiter()
    assert rig.codec.get_or_lease("a", 5, named) is named
    other = rig.codec.get("b")
    rig.codec.take()
    rig.codec.fail("gone")
    assert statuses(named, other) == ["unknown", "unknown"]
    late = Waiter()
    rig.codec.get_or_lease("a", 5, late)
    assert statuses(late) == ["down"]
    with pytest.raises(UsageError):
        rig.codec.get_or_lease("a b", 5, Waiter())
    assert rig.codec.get("a") is not late


# -- who is answered within the reading ------------------------------------------------------------------------------


class Caller(Waiter):
    """Takes its answer at once and goes on from there, as the shared cache's flights do."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.then = then

    def set_result(self, result: object) -> None:
        super().set_result(result)
        self.then()


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
@pytest.mark.parametrize("behind", [b"VA 1 c2\r\nb\r\n", b"EN\r\n"])
def test_who_is_answered_may_close_the_codec_within_the_answer(cut: int, behind: bytes) -> None:
    rig = Rig(check=mc_queue.CHECK_NOTHING)
    first = Caller(rig.codec.close)
    rig.codec.get_or_lease("k1", 5, first)
    rest = [rig.codec.get(f"k{at}") for at in range(5)]
    rig.codec.take()
    rest.append(rig.codec.get("unsent"))
    answers = b"VA 1 c1\r\na\r\n" + behind * 6
    rig.codec.feed(answers[: len(answers) - cut])
    rig.codec.feed(answers[len(answers) - cut :])
    assert statuses(first, *rest) == ["hit", *["unknown"] * 5, "down"]
    assert rig.codec.in_flight == 0


def test_who_hears_of_the_end_may_close_the_codec_within_that() -> None:
    rig = Rig()
    first = Caller(rig.codec.close)
    rig.codec.get_or_lease("k1", 5, first)
    rest = [rig.codec.get(f"k{at}") for at in range(5)]
    rig.codec.take()
    rig.codec.fail("closed by the node")
    assert statuses(first, *rest) == ["unknown"] * 6
    assert rig.codec.in_flight == 0


def test_one_may_ask_again_and_the_next_close_the_codec_when_they_hear_of_the_end() -> None:
    rig = Rig()
    again: list[Any] = []
    rig.codec.get_or_lease("k1", 5, Caller(lambda: again.append(rig.codec.get("k1"))))
    rig.codec.get_or_lease("k2", 5, Caller(rig.codec.close))
    rig.codec.take()
    rig.codec.reopen("closed by the node")
    assert statuses(*again) == ["down"]
    assert rig.codec.in_flight == 0


def test_who_hears_of_the_end_and_asks_again_waits_for_the_next_connection() -> None:
    rig = Rig()
    again: list[Any] = []
    first = Caller(lambda: again.append(rig.codec.get("k1")))
    rig.codec.get_or_lease("k1", 5, first)
    rest = rig.codec.get("k2")
    rig.codec.take()
    rig.codec.reopen("closed by the node")
    assert statuses(first, rest, *again) == ["unknown", "unknown", "waiting"]
    rig.connect()
    assert rig.codec.take().count(b"\r\n") == 1


def test_who_is_answered_and_asks_again_is_answered_in_turn() -> None:
    rig = Rig(in_flight_max=2, check=mc_queue.CHECK_NOTHING)  # the slot of the answered one is used anew
    again: list[Any] = []
    rig.codec.get_or_lease("k1", 5, Caller(lambda: again.append(rig.codec.get("k3"))))
    rest = rig.codec.get("k2")
    rig.codec.take()
    rig.codec.feed(b"VA 1 c1\r\na\r\nVA 1 c2\r\nb\r\n")
    rig.codec.take()
    rig.codec.feed(b"VA 1 c3\r\nc\r\n")
    assert (rest.result.value, again[0].result.value) == (b"b", b"c")


def test_an_exception_within_an_answer_ends_the_connection() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    rig = Rig()
    rig.codec.get_or_lease("k1", 5, Caller(interrupt))
    rest = [rig.codec.get("k2"), rig.codec.get("k3")]
    marks = [line[-3:] for line in rig.codec.take().split(b"\r\n")[:-1]]
    with pytest.raises(KeyboardInterrupt):
        rig.codec.feed(b"VA 1 c1 O%b\r\na\r\nVA 1 c1 O%b\r\na\r\n" % (marks[0], marks[1]))
    rig.codec.feed(b"EN\r\n")
    assert statuses(*rest) == ["unknown", "unknown"]
    assert rig.failures
    assert not rig.codec.up
