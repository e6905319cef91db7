"""The memory that a replica's processes share: rows, sums, orders; over real forks where that matters."""

from __future__ import annotations

import os

import pytest

from fastroute import Pool, Server
from fastroute._core.board import BOUNDS_S, CLASSES, REASONS, Board, Row, Tally
from fastroute.errors import UsageError


def board(rows: int = 3) -> Board:
    made = Board(rows, listeners=2, pools=2, nodes=2, servers=8)
    made.servers_used = 8
    return made


def in_child(work) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_what_a_child_counts_is_read_by_its_parent():
    shared = board()

    def work() -> None:
        shared.take(0, os.getpid())
        shared.row(0).words("pool", 1)[0] = 41

    in_child(work)
    assert shared.sum_words("pool", 1) == [41]
    assert shared.sum_words("pool", 0) == [0]


def test_a_dead_workers_counts_go_on_and_its_gauges_do_not():
    shared = board()
    shared.take(0, 11)
    tally = Tally(shared.row(0), 0, {"a": 1})
    pool = Pool("app", [Server("127.0.0.1:1", name="a", weight=7)])
    tally.publish(pool)
    shared.row(0).words("server", 1)[6] = 5  # requests
    shared.row(0).words("server", 1)[8] = 3  # in flight
    assert shared.server_sums([1])[0][1:2] == (5,)
    assert shared.server_sums([1])[0][4] == 3
    shared.leave(0)
    assert shared.server_sums([1])[0][1:2] == (5,)
    assert shared.server_sums([1])[0][4] == 0
    shared.take(0, 12)
    found = shared.server_sums([1])[0]
    assert found[1] == 5
    assert found[4] == 0
    assert found[8] == (0, 0, 0, 0, 0), "the new worker has said nothing of the server's state yet"


def test_sums_go_over_rows_that_were_taken():
    shared = board()
    for row in (0, 1):
        shared.take(row, 100 + row)
        shared.row(row).words("node", 1)[2] = 10 + row
        shared.row(row).words("node", 1)[50] = row
    assert shared.sum_words("node", 1, 2, 1) == [21]
    shared.leave(1)
    assert shared.sum_words("node", 1, 2, 1) == [21]
    assert shared.sum_words("node", 1, 50, 1, living=True) == [0]
    assert shared.words_by_row("node", 1, 2, 1) == [(0, [10])]


def test_a_health_change_is_counted_and_an_operators_is_not():
    shared = board()
    shared.take(0, 1)
    tally = Tally(shared.row(0), 0, {"a": 1, "b": 2})
    pool = Pool("app", [Server("127.0.0.1:1", name="a"), Server("127.0.0.1:2", name="b")])
    tally.publish(pool)
    for state in ("draining", "ready", "maintenance", "ready"):
        pool.set_state("a", state)
        tally.publish(pool)
    assert shared.server_sums([1])[0][3] == (0, 0, 0, 0, 0)
    for state in ("down", "ready", "ejected", "ready"):
        pool.set_state("a", state)
        tally.publish(pool)
    assert shared.server_sums([1])[0][3] == (2, 0, 0, 1, 1)
    assert shared.server_sums([2])[0][3] == (0, 0, 0, 0, 0)


def test_servers_without_a_column_of_their_own_share_one():
    shared = board()
    shared.take(0, 1)
    Tally(shared.row(0), 0, {"a": 1}, other=0).publish(Pool("app", [Server("127.0.0.1:1", name="new", weight=3)]))
    assert shared.server_sums([0])[0][6] == 3


def test_orders_are_seen_with_their_version():
    shared = board()
    assert shared.order(3) == (0, 0)
    before = shared.version
    assert shared.give_order(3, 1 << 63 | 1, 1234) == before + 1
    assert shared.order(3) == (1 << 63 | 1, 1234)
    assert shared.version == before + 1


def test_a_reloads_outcome_is_kept_and_cut_to_its_room():
    shared = board()
    assert shared.reloads() == (0, 0, 0, "")
    shared.note_reload(False, "é" * 5000)
    over, done, refused, text = shared.reloads()
    assert (over, done, refused) == (1, 0, 1)
    assert text.startswith("é")
    shared.note_reload(True, "fine")
    assert shared.reloads() == (2, 1, 1, "fine")


def test_workers_are_those_with_a_process():
    shared = board()
    shared.take(1, 77)
    shared.row(1).accept(True)
    shared.row(1).follow(9)
    assert shared.workers() == [(1, 77, True, 9)]
    shared.leave(1)
    assert shared.workers() == []


@pytest.mark.parametrize(
    "act",
    [
        lambda b: b.row(3),
        lambda b: b.take(3, 1),
        lambda b: b.order(8),
        lambda b: b.give_order(8, 0, 0),
        lambda b: b.sum_words("pool", 2),
        lambda b: b.sum_words("nothing", 0),
        lambda b: b.server_sums([8]),
        lambda b: Tally(Row(b, 0), 2, {}),
        lambda b: Board(0, listeners=1, pools=1, nodes=1, servers=1),
    ],
)
def test_what_is_out_of_range_is_refused(act):
    with pytest.raises(UsageError):
        act(board())


def test_names_of_what_is_counted():
    assert len(REASONS) == 8
    assert CLASSES[2:] == ("2xx", "3xx", "4xx", "5xx")
    assert list(BOUNDS_S) == sorted(BOUNDS_S)
