"""Orders: what an operator gives a server, as a word of the board and as a pool follows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute import Pool, Server
from fastroute._core.board import Board
from fastroute.errors import UsageError
from fastroute.health.standing import Standing
from fastroute.model import WEIGHT_MAX
from fastroute.proxy.orders import Order, Orders, apply


@given(st.sampled_from([None, "draining", "maintenance"]), st.none() | st.integers(0, WEIGHT_MAX))
def test_an_order_survives_its_word(state, weight):
    order = Order(state, weight, 5)
    assert Order.of(order.word(), 5) == order
    assert order.word() < 1 << 64
    assert (order.word() == 0) == (state is None and weight is None)


@given(st.integers(0, (1 << 64) - 1))
def test_no_word_is_too_strange_to_be_read(word):
    order = Order.of(word, 0)
    assert order.weight is None or 0 <= order.weight <= WEIGHT_MAX


def pool() -> Pool:
    return Pool("app", [Server("127.0.0.1:1", name="a", weight=2), Server("127.0.0.1:2", name="b")])


def test_a_pool_follows_an_order_and_its_end():
    made = pool()
    standing = Standing(made)
    for _ in range(2):  # doing it again changes nothing
        apply(standing, "a", Order("draining", 9), 2)
        assert made.state_of("a") == "draining"
        assert made.servers[0].weight == 9
    apply(standing, "a", Order(), 2)
    assert made.state_of("a") == "ready"
    assert made.servers[0].weight == 2


@pytest.mark.parametrize(("mark", "state"), [("checks", "down"), ("ejected", "ejected")])
def test_the_end_of_an_order_leaves_what_health_said(mark, state):
    made = pool()
    standing = Standing(made)
    standing.mark("a", mark, True)
    apply(standing, "a", Order("maintenance", 3), 2)
    apply(standing, "a", Order(weight=3), 2)
    assert made.state_of("a") == state


def test_an_order_for_a_server_that_left_is_nothing():
    apply(Standing(pool()), "gone", Order("draining"), 1)


def test_each_change_is_told_once_to_each_who_looks():
    board = Board(1, listeners=1, pools=1, nodes=1, servers=8)
    columns = {"app": {"a": 1, "b": 2, "crowded": 0}}
    giver, follower = Orders(board, columns), Orders(board, columns)
    assert follower.changed() == []
    version = giver.give("app", "a", Order("draining", None, 7))
    assert board.version == version
    assert follower.changed() == [("app", "a", Order("draining", None, 7))]
    assert follower.changed() == []
    giver.give("app", "a", Order(None, None, 8))
    assert follower.changed() == [("app", "a", Order(None, None, 8))]
    assert Orders(board, columns).changed() == [], "nothing is ordered any more"
    for name in ("none", "crowded"):
        with pytest.raises(UsageError):
            giver.give("app", name, Order("draining"))
