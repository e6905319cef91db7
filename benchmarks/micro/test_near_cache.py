"""The near cache's cost per call beside a dict and functools.lru_cache, which bound neither bytes nor time.

Keys are 24 characters, 1,000 of them; a round is one pass over all.
"""

import functools
from typing import Any

import pytest

from fastroute._core.near_cache import NearCache

KEYS = [f"user:{number:019d}" for number in range(1000)]


def one_pass(call: Any, keys: list[str]) -> None:
    for key in keys:
        call(key)


@pytest.fixture
def cache() -> NearCache:
    filled = NearCache(64 << 20)
    for key in KEYS:
        filled.put(key, (key, 1), 100, 3_600_000)
    return filled


@pytest.mark.benchmark(group="near cache, 1000 calls")
@pytest.mark.parametrize("kind", ["near hit", "near lookup", "near miss", "dict hit", "lru_cache hit", "len"])
def test_near_cache_call(benchmark: Any, cache: NearCache, kind: str) -> None:
    keys = [f"user:{number:019d}" for number in range(1000)]  # equal, not identical: comparing costs what it costs
    call: Any = {
        "near hit": cache.get,
        "near lookup": cache.lookup,
        "near miss": cache.get,
        "dict hit": dict.fromkeys(KEYS, 1).get,
        "lru_cache hit": functools.lru_cache(maxsize=10_000)(lambda key: key),
        "len": len,
    }[kind]
    if kind == "near miss":
        keys = [key.upper() for key in keys]
    one_pass(call, keys)
    benchmark(one_pass, call, keys)


@pytest.mark.benchmark(group="near cache, 1000 calls")
def test_near_cache_put_that_evicts(benchmark: Any) -> None:
    small = NearCache(500 * 300)

    def put_all() -> None:
        for key in KEYS:
            small.put(key, 1, 100, 1000)

    benchmark(put_all)
