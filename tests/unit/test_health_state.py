"""Rise and fall, back-off, verdicts as words, and the one state out of all that has a say: as tables."""

from __future__ import annotations

import itertools

import pytest

from fastroute import Pool, Server
from fastroute.health.life import boot_of
from fastroute.health.standing import Standing, state_of
from fastroute.health.state import HEAVY_BYTES, HEAVY_FACTOR_MAX, Status, after, backed_off, heaviness, wait_s
from fastroute.health.verdict import Verdict


def flips(results: str, rise: int, fall: int) -> str:
    """Of results such as "++--", the state after each: u, d."""
    status, said = Status(), ""
    for one in results:
        status, _ = after(status, one == "+", rise=rise, fall=fall)
        said += "u" if status.up else "d"
    return said


@pytest.mark.parametrize(
    ("results", "rise", "fall", "states"),
    [
        ("+", 2, 3, "u"),
        ("-", 2, 3, "d"),
        ("-+", 2, 3, "dd"),
        ("-++", 2, 3, "ddu"),
        ("-+-++", 2, 3, "ddddu"),
        ("+--+---", 2, 3, "uuuuuud"),
        ("+---", 2, 3, "uuud"),
        ("+---++", 2, 3, "uuuddu"),
        ("+-", 1, 1, "ud"),
        ("+-+-", 1, 1, "udud"),
        ("+-+-", 1, 2, "uuuu"),
        ("+--+", 1, 2, "uudu"),
    ],
)
def test_the_first_result_decides_and_then_rise_and_fall_in_a_row(results, rise, fall, states):
    assert flips(results, rise, fall) == states


def test_a_flip_is_told_exactly_when_the_state_changes():
    for results in itertools.product([True, False], repeat=9):
        status, was = Status(), None
        for ok in results:
            status, flip = after(status, ok, rise=2, fall=3)
            assert (flip is not None) == (status.up != was)
            assert flip in (None, "up" if status.up else "down")
            was = status.up


def test_the_wait_is_fast_while_the_state_may_change_and_stays_within_its_jitter():
    calm, changing = Status(up=True), Status(up=True, against=1)
    assert [wait_s(calm, interval_s=2, fast_interval_s=0.5, draw=d) for d in (0, 0.5, 1)] == pytest.approx(
        [1.8, 2, 2.2]
    )
    assert wait_s(changing, interval_s=2, fast_interval_s=0.5, draw=0.5) == 0.5
    assert wait_s(changing, interval_s=2, fast_interval_s=0, draw=0.5) == 2


def test_heavy_answers_double_the_wait_up_to_a_bound_and_light_ones_take_it_back():
    status, factors = Status(up=True), []
    for heavy in (True, True, True, True, False, False, False, False):
        status = backed_off(status, heavy)
        factors.append(status.heavy_factor)
    assert factors == [2, 4, HEAVY_FACTOR_MAX, HEAVY_FACTOR_MAX, 4, 2, 1, 1]
    assert heaviness(0.1, HEAVY_BYTES, 1) is None
    assert "64 KiB" in heaviness(0.1, HEAVY_BYTES + 1, 1)
    assert "600 ms" in heaviness(0.6, 0, 1)


def test_a_verdict_survives_its_word():
    for marks in itertools.product([False, True], repeat=5):
        for restarts in (0, 1, 0xFFFFFFFF):
            verdict = Verdict(*marks, restarts)
            assert Verdict.of(verdict.word()) == verdict
            assert 0 < verdict.word() < 1 << 64
    assert Verdict.of(0) is None


@pytest.mark.parametrize(
    ("order", "marks", "state"),
    [
        (None, (), "ready"),
        (None, ("checks",), "down"),
        (None, ("refused",), "down"),
        (None, ("outlier",), "ejected"),
        (None, ("ejected",), "ejected"),
        (None, ("keep-bound",), "draining"),
        (None, ("joining",), "maintenance"),
        (None, ("keep-bound", "ejected", "checks"), "down"),
        (None, ("keep-bound", "ejected"), "ejected"),
        ("draining", (), "draining"),
        ("draining", ("checks",), "draining"),
        ("maintenance", ("keep-bound",), "maintenance"),
    ],
)
def test_the_strongest_word_decides(order, marks, state):
    assert state_of(order, marks) == state


def made(**options) -> tuple[Pool, Standing]:
    pool = Pool("app", [Server(f"127.0.0.1:{i}", name=name) for i, name in enumerate("abc", 1)], **options)
    return pool, Standing(pool, ramps=bool(options.get("slow_start")))


def test_marks_come_and_go_without_each_other():
    pool, standing = made()
    standing.mark("a", "refused", True)
    standing.judge("a", Verdict(down=True))
    standing.mark("a", "refused", False)
    assert pool.state_of("a") == "down"
    standing.order("a", "draining")
    assert pool.state_of("a") == "draining"
    standing.judge("a", Verdict())
    standing.order("a", None)
    assert pool.state_of("a") == "ready"
    assert standing.count("checks") == 0


def test_marks_of_a_server_that_is_not_there_yet_hold_when_it_comes():
    pool, standing = made()
    standing.judge("d", Verdict(down=True))
    pool.update([*pool.servers, Server("127.0.0.1:4", name="d")])
    standing.settle_all()
    assert pool.state_of("d") == "down"


def test_a_restart_that_nobody_saw_as_a_failure_begins_a_ramp():
    pool, standing = made(slow_start={"window": "30s"})
    standing.judge("a", Verdict(restarts=5))
    weights = {row.name: row.weight_effective for row in pool.statistics().servers}
    assert weights["a"] == 1  # the first word is no restart
    standing.judge("a", Verdict(restarts=6))
    weights = {row.name: row.weight_effective for row in pool.statistics().servers}
    assert weights["a"] < 0.2
    assert weights["b"] == 1
    assert pool.state_of("a") == "ready"


@pytest.mark.parametrize(
    ("fields", "known", "wall_s", "expected"),
    [
        ({"x-up": "100"}, "", 1000, "@900"),
        ({"x-up": "103.5"}, "@900", 1000, "@900"),
        ({"x-up": "10"}, "@900", 1000, "@990"),
        ({"x-up": "nan"}, "@900", 1000, ""),
        ({"x-up": "-1"}, "@900", 1000, ""),
        ({}, "@900", 1000, ""),
    ],
)
def test_an_uptime_names_a_life_by_its_start(fields, known, wall_s, expected):
    assert boot_of(fields, "", "X-Up", known, wall_s) == expected


def test_a_boot_id_names_a_life_by_itself():
    assert boot_of({"x-boot": "b7"}, "X-Boot", "", "b6", 0) == "b7"
    assert boot_of({}, "X-Boot", "", "b6", 0) == ""
    assert boot_of({"x-boot": "b7"}, "", "", "", 0) == ""
