"""What a replica's log says of the nodes of its store."""

from __future__ import annotations

import logging
import os

import pytest

from fastroute._core.board import Board
from fastroute.metrics.layout import NODE_GAUGES, NODE_GAUGES_AT
from fastroute.proxy.store_told import AWAY_S, StoreTold

UP = NODE_GAUGES_AT + NODE_GAUGES.index("up")
NODE = "10.0.0.5:11211"


class Replica:
    """Two workers that know one node."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.board = Board(2, listeners=1, pools=1, nodes=1, servers=1)
        for index in (0, 1):
            self.board.take(index, os.getpid())
        self.rows = [self.board.row(index) for index in (0, 1)]
        self.told, self._caplog = StoreTold(self.board, {NODE: 0}), caplog
        caplog.set_level(logging.INFO, "fastroute.store")

    def look(self, now_s: float, *up: int) -> list[str]:
        for row, one in zip(self.rows, up, strict=True):
            row.words("node", 0)[UP] = one
        self._caplog.clear()
        self.told.turn(now_s)
        return [record.getMessage() for record in self._caplog.records]


def test_a_node_that_is_away_is_told_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    of = Replica(caplog)
    assert of.look(0.0, 1, 1) == []
    assert of.look(1.0, 0, 0) == []
    assert of.look(1.0 + AWAY_S, 0, 0) == [
        f"store {NODE}: no worker reaches it; is memcached running there? it is tried again until it answers"
    ]
    assert of.look(60.0, 0, 0) == []
    assert of.look(61.0, 0, 1) == []
    assert of.look(62.0, 1, 1) == [f"store {NODE}: answers again"]


def test_a_connection_that_is_made_again_at_once_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    of = Replica(caplog)
    assert of.look(1.0, 0, 0) + of.look(1.0 + AWAY_S / 2, 1, 1) + of.look(1.0 + AWAY_S, 0, 0) == []


def test_a_node_that_some_workers_miss_is_told_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    of = Replica(caplog)
    of.look(1.0, 1, 0)
    assert "1 of 2 workers do not reach it" in of.look(1.0 + AWAY_S, 1, 0)[0]
