"""docs/limits.md is true: every limit of the grammar, its default, its count and its test are there, and no others."""

from __future__ import annotations

import re

import msgspec

from fastroute._core.http_wire import Engine
from fastroute.clock import SYSTEM
from fastroute.config import schema
from tests.support.shared import ROOT

PAGE = (ROOT / "docs" / "limits.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| `(listeners|pools)\.", line)
]
SECTIONS = {
    "listeners.limits": schema.ListenerLimits,
    "listeners.timeouts": schema.ListenerTimeouts,
    "pools.limits": schema.PoolLimits,
    "pools.timeouts": schema.PoolTimeouts,
}


def test_every_limit_of_the_grammar_is_on_the_page_with_its_default() -> None:
    told = {row[0].strip("`"): float(row[1]) for row in ROWS}
    known = {
        f"{section}.{info.encode_name}": float(info.default)
        for section, struct in SECTIONS.items()
        for info in msgspec.structs.fields(struct)
    }
    assert told == known


def test_every_count_is_on_the_page_and_has_a_test_of_its_name() -> None:
    told = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[3])}
    assert told == set(Engine(SYSTEM).counters()["limits_hit"])
    tests = (ROOT / "tests" / "integration" / "test_limits.py").read_text()
    assert told <= set(re.findall(r"^async def test_limit_(\w+)\(", tests, re.M))


def test_every_default_that_is_a_limit_has_a_source() -> None:
    assert all(len(row[2]) > 8 for row in ROWS)
