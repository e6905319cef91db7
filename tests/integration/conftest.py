"""What many modules of integration tests begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.memcached import Memcached


@pytest.fixture(scope="module")
def store() -> Iterator[Memcached]:
    """One memcached for a module's tests, which flush it where they need it empty."""
    with Memcached() as one:
        yield one
