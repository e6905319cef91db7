"""memcached killed and returned during load through the cache of responses."""

from __future__ import annotations

import asyncio
import pathlib

from tests.support.cache_outage import outage

ORIGIN_MAX = 4


def test_no_request_fails_and_servers_are_spared_while_memcached_is_killed_and_returns(tmp_path: pathlib.Path) -> None:
    report = asyncio.run(outage(tmp_path, origin_max=ORIGIN_MAX))
    assert report.failures == []
    assert report.requests > 200
    assert report.asked[1] > 0, "while it was away pages ran out and were asked for"
    assert report.in_flight_away_max <= 2 * ORIGIN_MAX, "two replicas"
    assert report.hits_after >= 50
