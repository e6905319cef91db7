"""[pools.NAME.health] and its neighbours: what is refused, and what draws a warning."""

from __future__ import annotations

import re

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from tests.support.shared import ROOT

BASE = """secret = "a secret for tests of at least 32 bytes"
identity_secret = "another one of at least 32 bytes!!"
[listeners.web]
bind = "127.0.0.1:18080"
pool = "app"
[pools.app]
servers = [{ name = "a", address = "127.0.0.1:18081" }, { name = "b", address = "127.0.0.1:18082" }]
"""


def refused(more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(BASE + more)
    return str(caught.value)


def warned(text: str) -> str:
    return "\n".join(message for _, message in loads(text).warnings)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "health.md").read_text(), re.S))
def test_the_examples_of_the_page_can_be_used(text: str):
    health = "" if "[pools.app.health]" in text else '[pools.app.health]\ncheck = "http"\n'
    assert warned(BASE + health + text) == ""


def test_the_defaults_are_those_of_the_page():
    health = loads(BASE + "[pools.app.health]\n").config.pools["app"].health
    assert (health.check, health.path, health.method, health.expect) == ("tcp", "/healthz", "HEAD", (200, 399))
    assert (health.interval_s, health.timeout_s, health.rise, health.fall) == (2.0, 1.0, 2, 3)
    assert warned(BASE + "[pools.app.health]\n") == ""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('[pools.app.health]\ncheck = "ping"\n', '"tcp", "tls", "http" or "command"'),
        ('[pools.app.health]\ncheck = "http"\npath = "healthz"\n', "a path such as"),
        ('[pools.app.health]\ncheck = "http"\npath = "/a b"\n', "a path such as"),
        ('[pools.app.health]\ncheck = "http"\nhost = "a b"\n', "what a Host field holds"),
        ('[pools.app.health]\ncheck = "http"\nbody = "ok"\n', "another method than"),
        ('[pools.app.health]\ncheck = "http"\nexpect = [99]\n', "from 100 to 599"),
        ('[pools.app.health]\ncheck = "command"\n', "needs a command"),
        ('[pools.app.health]\ncommand = ["/bin/true"]\n', 'run by check = "command"'),
        ('[pools.app.health]\ncommand = ["", "x"]\ncheck = "command"\n', "a list of texts"),
        ('[pools.app.health]\nboot_header = "X-Boot"\n', "a field of the answers"),
        ('[pools.app.health]\non_restart = "move"\n', "not sticky"),
        ("[pools.app.health]\nfall = 0\n", "from 1 to 100"),
        ('[pools.app.content]\nheader = "X-Build"\n', "[pools.NAME.health] beside it"),
        ('[pools.app.health]\n[pools.app.content]\nheader = "X-Build"\n', 'check = "http"'),
        ("[pools.app.health]\n[pools.app.content]\n", "one of paths and header"),
        ('[pools.app.health]\n[pools.app.content]\npaths = ["version"]\n', "a path such as"),
        ("[pools.app.health]\n[pools.app.on_join]\n", "one of command and path"),
        ('[pools.app.health]\n[pools.app.on_join]\ncommand = ["x"]\npath = "/x"\n', "one of command and path"),
        ("[pools.app.outlier]\nlatency_factor = 1\n", "0 (off) and 1.1 to 1000"),
    ],
)
def test_a_mistake_is_refused_with_what_is_accepted(more: str, says: str):
    assert says in refused(more)


def test_fleet_load_is_for_policies_that_look_at_load():
    assert "policies that look at load" in refused("fleet_load = true\n")
    text = BASE.replace("[pools.app]\n", '[pools.app]\npolicy = "least-connections"\nfleet_load = true\n')
    assert "needs [store] and secret" in warned(text)


def test_a_check_of_the_start_page_draws_a_warning():
    assert "rarely light" in warned(BASE + '[pools.app.health]\ncheck = "http"\npath = "/"\n')


def test_health_that_cannot_be_shared_draws_a_warning():
    text = BASE.split("\n", 1)[1] + '[pools.app.health]\n[store]\nmemcached = ["127.0.0.1:11211"]\n'
    assert "no secret is configured: every replica asks every server" in warned(text)


def test_moving_bindings_without_an_admin_process_draws_a_warning():
    more = '[pools.app.health]\non_restart = "move"\n[pools.app.sticky]\non = "cookie:sid"\n'
    assert "needs [admin]" in warned(BASE + more)
