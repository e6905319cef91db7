"""All cases of HTTP caching."""

from __future__ import annotations

from tests.conformance.http_cache import freshness, storing, validating
from tests.conformance.http_cache.wire import Case

__all__ = ["CASES"]

CASES: list[Case] = [*freshness.CASES, *storing.CASES, *validating.CASES]
assert len({of.name for of in CASES}) == len(CASES), "two cases of one name"
