"""[pools.NAME.rebalance]: what is accepted, and what idle means where nothing is said."""

from __future__ import annotations

import pytest

from fastroute.config.load import loads
from fastroute.config.schema_rebalance import idle_min_s, idle_s
from fastroute.errors import ConfigError

TOP = 'secret = "a secret for tests of at least 32 bytes"\nidentity_secret = "another one of at least 32 bytes!!"\n'
STORE = '[store]\nmemcached = ["10.0.0.5:11211"]\n'
POOL = '[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n[pools.app]\nservers = [{ address = "10.0.0.1:80" }]\n'
STICKY = '[pools.app.sticky]\non = "cookie:sid"\nttl = "30m"\n'


def rebalanced(more: str, *, store: str = STORE, sticky: str = STICKY, pool: str = "", top: str = TOP) -> str:
    return top + store + POOL + pool + sticky + f"[pools.app.rebalance]\n{more}"


def test_it_is_off_by_default():
    found = loads(TOP + POOL + STICKY).config.pools["app"].rebalance
    assert (found.per_second, found.idle_s) == (0, 0.0)


def test_idle_is_three_fifths_of_the_ttl_or_the_least_that_can_be_told():
    config = loads(rebalanced("per_second = 5\n")).config
    assert idle_s(config, config.pools["app"]) == 1080
    config = loads(rebalanced("per_second = 5\n", sticky=STICKY.replace("30m", "1m"))).config
    assert idle_s(config, config.pools["app"]) == idle_min_s(60, 2) == pytest.approx(37)
    config = loads(rebalanced('per_second = 5\nidle = "25m"\n', store="")).config
    assert idle_s(config, config.pools["app"]) == 1500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rebalanced('per_second = 5\nidle = "10m"\n'), "accepted: 994 s (0.55 of sticky.ttl"),
        (rebalanced('per_second = 5\nidle = "30m"\n'), "to 1797 s"),
        (rebalanced("per_second = 1001\n"), "from 0 to 1000"),
        (rebalanced("per_second = 5\n", sticky=""), "not sticky"),
        (rebalanced("per_second = 5\n", sticky=STICKY.replace("30m", "5s")), "too short to tell who is idle"),
        (rebalanced("per_second = 5\n", sticky=STICKY + 'on_failure = "fail"\n'), "keeps them"),
        (rebalanced("per_second = 5\n", pool='policy = "hash"\n'), "places them"),
        (rebalanced("per_second = 5\n", top=""), "no secret is configured"),
        (rebalanced('per_second = 5\nidel = "20m"\n'), '"idle"'),
    ],
)
def test_a_mistake_is_refused_with_what_is_accepted(text: str, says: str):
    with pytest.raises(ConfigError) as refused:
        loads(text)
    assert says in str(refused.value)


def test_what_is_off_is_not_looked_at():
    loads(rebalanced("per_second = 0\n", sticky=""))
