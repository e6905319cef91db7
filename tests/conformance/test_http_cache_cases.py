"""The cache of responses against what the RFCs say, case by case (http_cache/), through one replica and through three.

With three the requests of a case go to one after the other: what one has stored, confirmed or invalidated is so on all.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.http_cache.__main__ import outcomes
from tests.conformance.http_cache.cases import CASES


@pytest.fixture(scope="module", params=[1, 3], ids=["one replica", "three replicas"])
def found(request: pytest.FixtureRequest) -> dict[str, str]:
    return asyncio.run(outcomes("fastroute", request.param))


@pytest.mark.parametrize("of", CASES, ids=[of.name for of in CASES])
def test_case(found: dict[str, str], of) -> None:
    assert found[of.name] == "", f"RFC {of.clause}"
