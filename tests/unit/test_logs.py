"""Log lines: one per event, as text or JSON, repeats bounded."""

from __future__ import annotations

import json
import logging

import pytest

from fastroute.cli import logs


@pytest.fixture(autouse=True)
def logging_is_put_back():
    logger = logging.getLogger("fastroute")
    kept = (list(logger.handlers), logger.level, logger.propagate, logging.raiseExceptions)
    yield
    logger.handlers[:], logger.level, logger.propagate, logging.raiseExceptions = kept
    logger.setLevel(kept[1])


def test_an_event_is_one_line_whatever_is_in_it(capsys):
    logs.log_to_stderr()
    logging.getLogger("fastroute.proxy").warning("server %s", "a\nfaked line\x1b[31m")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(" warning server a\\nfaked line\\x1b[31m\n")


def test_json_lines_are_read_by_programs(capsys):
    logs.log_to_stderr(as_json=True)
    logging.getLogger("fastroute.admin").info('pool "é": %s', "ordered")
    told = json.loads(capsys.readouterr().err)
    assert (told["level"], told["part"], told["message"]) == ("info", "admin", 'pool "é": ordered')
    assert told["time"].endswith("Z")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("fastroute.admin").exception("failed")
    assert "ValueError: x" in json.loads(capsys.readouterr().err)["trace"]


def test_repeats_are_told_a_few_times_and_then_counted():
    now_s = 0.0
    repeats = logs.Repeats(lambda: now_s)

    def tell(text: str) -> logging.LogRecord | None:
        record = logging.LogRecord("fastroute.x", logging.WARNING, "", 0, text, None, None)
        return record if repeats.filter(record) else None

    assert sum(tell("again") is not None for _ in range(100)) == logs.REPEATS_MAX
    assert tell("another") is not None
    now_s = logs.REPEATS_S
    record = tell("again")
    assert record is not None
    assert record.left_out == 100 - logs.REPEATS_MAX
    assert sum(tell(f"line {n}") is not None for n in range(2 * logs.LINES_MAX)) == 2 * logs.LINES_MAX
