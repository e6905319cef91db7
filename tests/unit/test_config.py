"""What a good configuration becomes: defaults, units, secrets, warnings, and where its keys stand."""

from __future__ import annotations

import contextlib
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.config.load import load, loads, usable_cores
from fastroute.config.locate import line_of
from fastroute.config.rules import points_to_itself
from fastroute.config.schema import Config, PoolConfig
from fastroute.errors import ConfigError, UsageError
from fastroute.model import Server
from fastroute.routing.keys import KeyRule

SECRET = "0123456789abcdef0123456789abcdef"
SMALL = '[listeners.web]\nbind = "0.0.0.0:8080"\npool = "app"\n[[pools.app.servers]]\naddress = "10.0.0.11:8080"\n'


def config(text: str, **environment: str) -> Config:
    return loads(text, environment=environment).config


def test_defaults_are_those_of_the_contract():
    found = config(SMALL)
    listener, pool = found.listeners["web"], found.pools["app"]
    assert (found.fleet, found.workers, found.zone.name, found.zone.size_bytes) == ("fr", 1, "fr", 64 << 20)
    assert (found.debug_headers, found.store, found.secret, found.identity_secret) == (False, None, (), None)
    assert (listener.protocol, listener.trusted_proxies, listener.bind) == ("http", (), ("0.0.0.0:8080",))
    limits, timeouts = listener.limits, listener.timeouts
    assert (limits.request_line_bytes, limits.head_bytes, limits.fields, limits.method_bytes) == (8192, 32768, 100, 64)
    assert (limits.body_bytes, limits.connections, limits.connections_per_client) == (10 << 20, 10000, 256)
    assert limits.requests_per_connection == 1000
    assert (timeouts.head_s, timeouts.body_s, timeouts.idle_s, timeouts.drain_s) == (10.0, 30.0, 60.0, 30.0)
    assert (pool.policy, pool.ring, pool.slots, pool.sticky, pool.key) == ("round-robin", "table", 131072, None, None)
    assert (pool.timeouts.connect_s, pool.timeouts.response_s, pool.timeouts.idle_s) == (2.0, 30.0, 60.0)
    assert (pool.limits.response_head_bytes, pool.limits.pending, pool.limits.pending_time_s) == (32768, 1024, 1.0)
    assert pool.retry.attempts == 1
    assert pool.server_list() == [Server("10.0.0.11:8080")]
    assert (found.access_log.format, found.cache.enabled, found.admin) == ("off", False, None)


def test_sticky_and_store_defaults_are_those_of_the_contract():
    found = config(f'secret = "{SECRET}"\nstore.memcached = ["h:1"]\n{SMALL}[pools.app.sticky]\n')
    sticky = found.pools["app"].sticky
    assert sticky is not None
    assert found.store is not None
    assert (sticky.on, sticky.ttl_s, sticky.on_failure) == (KeyRule("insert"), 1800.0, "move")
    cookie = sticky.cookie
    assert (cookie.name, cookie.domain, cookie.same_site, cookie.secure) == ("fastroute", "", "Lax", "auto")
    assert (found.store.memcached, found.store.copies, found.store.timeout_s) == (("h:1",), 1, 0.05)
    assert found.store.near_ttl_s == 2.0


def test_units_are_seconds_and_bytes_whatever_the_file_writes():
    text = SMALL + '[listeners.web.timeouts]\nhead = "250ms"\nidle = 10\nbody = 1.5\ndrain = 0\n'
    timeouts = config(text + '[listeners.web.limits]\nbody_bytes = "1GiB"\n').listeners["web"].timeouts
    assert (timeouts.head_s, timeouts.idle_s, timeouts.body_s, timeouts.drain_s) == (0.25, 10.0, 1.5, 0.0)


def test_zone_is_named_after_the_fleet_unless_it_has_a_name():
    assert config('fleet = "shop"\n' + SMALL).zone.name == "shop"
    assert config('fleet = "shop"\nzone.name = "z"\n' + SMALL).zone.name == "z"


def test_workers_auto_is_the_number_of_usable_cores():
    assert config('workers = "auto"\n' + SMALL).workers == usable_cores() >= 1


def test_bind_may_be_a_list():
    text = SMALL.replace('"0.0.0.0:8080"', '["127.0.0.1:80", "[::1]:80", "unix:/run/fr.sock"]')
    assert config(text).listeners["web"].bind == ("127.0.0.1:80", "[::1]:80", "unix:/run/fr.sock")


def test_servers_keep_name_weight_and_backup():
    text = SMALL + 'name = "a"\nweight = 0\n[[pools.app.servers]]\naddress = "unix:/run/b"\nbackup = true\n'
    assert config(text).pools["app"].server_list() == [
        Server("10.0.0.11:8080", name="a", weight=0),
        Server("unix:/run/b", backup=True),
    ]


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("cookie:JSESSIONID", KeyRule("cookie", "JSESSIONID")),
        ("header:X-User", KeyRule("header", "X-User")),
        ("client-ip", KeyRule("client-ip")),
    ],
)
def test_rules_for_keys(written, rule):
    assert config(SMALL + f'[pools.app.sticky]\non = "{written}"\n').pools["app"].affinity_key == rule
    hashed = config(SMALL + f'[pools.app]\npolicy = "hash"\nkey = "{written}"\n').pools["app"]
    assert (hashed.key, hashed.affinity_key, hashed.sticky) == (rule, rule, None)


def test_hash_takes_the_key_that_sticks_when_it_names_none():
    text = SMALL + '[pools.app]\npolicy = "hash"\nsticky.on = "header:X-User"\n'
    assert config(text).pools["app"].affinity_key == KeyRule("header", "X-User")


def test_trusted_proxies_are_networks():
    text = SMALL.replace('pool = "app"', 'pool = "app"\ntrusted_proxies = ["10.0.0.0/8", "127.0.0.1", "fd00::/8"]')
    assert config(text).listeners["web"].trusted_proxies == ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")


# Secrets ------------------------------------------------------------------------------------------------------------


def test_secret_comes_from_the_environment_a_file_or_the_text(tmp_path):
    path = tmp_path / "key"
    path.write_text("f" * 20 + SECRET + "\n")
    path.chmod(0o600)
    found = config(f'secret = ["env:K", "file:{path}", "t{SECRET}"]\n' + SMALL, K="e" * 20 + SECRET).secret
    assert [bytes(one) for one in found] == [
        b"e" * 20 + SECRET.encode(),
        b"f" * 20 + SECRET.encode(),
        f"t{SECRET}".encode(),
    ]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644])
def test_secret_file_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    path.write_text(SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        config(f'secret = "file:{path}"\n' + SMALL)


def test_empty_environment_variable_is_named():
    with pytest.raises(ConfigError, match='"K" is empty'):
        config('secret = "env:K"\n' + SMALL, K="")


def test_secrets_do_not_show_themselves():
    found = config(f'secret = "{SECRET}"\nidentity_secret = "i{SECRET}"\n' + SMALL)
    assert SECRET not in repr(found) + str(found) + f"{found.secret[0]}" + f"{found.secret!r}"


def test_config_goes_through_pickle_and_compares_by_value():
    found = config(f'secret = "{SECRET}"\n' + SMALL)
    assert pickle.loads(pickle.dumps(found)) == found
    assert found == config(f'secret = "{SECRET}"\n' + SMALL)
    assert found != config(f'secret = "x{SECRET}"\n' + SMALL)
    with pytest.raises(AttributeError):
        found.fleet = "other"  # type: ignore[misc]
    assert isinstance(found.pools["app"], PoolConfig)


# What the command line overrides --------------------------------------------------------------------------------------


def test_bind_of_the_command_line_replaces_the_files():
    assert loads(SMALL, binds={"web": ["127.0.0.1:1", "[::1]:1"]}).config.listeners["web"].bind == (
        "127.0.0.1:1",
        "[::1]:1",
    )


def test_bind_of_the_command_line_is_checked_like_the_files():
    with pytest.raises(UsageError, match="configured are: web"):
        loads(SMALL, binds={"wbe": ["127.0.0.1:1"]})
    with pytest.raises(UsageError, match="port 1-65535"):
        loads(SMALL, binds={"web": ["127.0.0.1:0"]})
    with pytest.raises(ConfigError, match="itself"):
        loads(SMALL.replace("10.0.0.11:8080", "127.0.0.1:9"), binds={"web": ["0.0.0.0:9"]})


# Warnings -------------------------------------------------------------------------------------------------------------


def warnings(text: str) -> list[tuple[int | None, str]]:
    return list(loads(text).warnings)


def test_sticky_pool_without_an_identity_secret_draws_a_warning():
    [(line, message)] = warnings(SMALL + '[pools.app.sticky]\non = "client-ip"\n')
    assert (line, "identity_secret is not set" in message) == (None, True)


def test_what_is_probably_not_meant_draws_a_warning_with_its_line():
    spare = '[[pools.spare.servers]]\naddress = "h:1"\n[[pools.spare.servers]]\nname = "x"\naddress = "h:1"\n'
    found = warnings(SMALL + spare + '[store]\nmemcached = ["m:1"]\n')
    assert [line for line, _ in found] == [6, 8, 11]
    assert "used by no listener" in found[0][1]
    assert 'address "h:1" is that of server "h:1" too' in found[1][1]
    assert "no pool is sticky" in found[2][1]


@pytest.mark.parametrize(
    ("cache", "warned"),
    [
        ("enabled = true", "the store's nodes"),
        ('enabled = true\nmemcached = ["m:1", "c:1"]', '"m:1"'),
        ('enabled = true\nmemcached = ["c:1"]', ""),
        ("enabled = false", ""),
    ],
)
def test_a_cache_on_the_stores_nodes_draws_a_warning(cache, warned):
    store = f'secret = "{SECRET}"\nidentity_secret = "{SECRET}2"\n[store]\nmemcached = ["m:1"]\n'
    found = [message for _, message in warnings(f"{store}{SMALL}[pools.app.sticky]\n[cache]\n{cache}\n")]
    assert len(found) == bool(warned), found
    assert not warned or f"the cache shares {warned} with the store" in found[0]


def test_file_that_others_can_read_or_change_draws_a_warning(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text(f'secret = "{SECRET}"\n' + SMALL)
    path.chmod(0o600)
    assert load(path).warnings == ()
    path.chmod(0o644)
    assert ["holds a secret" in message for _, message in load(path).warnings] == [True]
    path.write_text(SMALL)
    path.chmod(0o602)
    assert ["everybody on this machine can change it" in message for _, message in load(path).warnings] == [True]


# Lines ----------------------------------------------------------------------------------------------------------------

TOML = '''\
# a comment with [brackets] and key = "value"
top = """
[not.a.table]
x = 1
""" # [nor.this]
"quoted.key" = 'its = ['
dotted . "two words".three = 1
[tables.a]
list = [ # comment ]
  1, "]", {
  x = 1, y = [2,
    3] },
]

[[tables.a.items]]
name = 1
[[tables.a.items]]
sub.name = 2
[tables.a.items.deeper]
z = """a\\""" ]"""
inline = { p.q = [[1], [2]], "r s" = 'x' }
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted.key",), 6),
        (("dotted",), 7),
        (("dotted", "two words", "three"), 7),
        (("tables",), 8),
        (("tables", "a"), 8),
        (("tables", "a", "list"), 9),
        (("tables", "a", "list", 0), 10),
        (("tables", "a", "list", 2), 10),
        (("tables", "a", "list", 2, "x"), 11),
        (("tables", "a", "list", 2, "y", 1), 12),
        (("tables", "a", "items", 0), 15),
        (("tables", "a", "items", 0, "name"), 16),
        (("tables", "a", "items", 1, "sub", "name"), 18),
        (("tables", "a", "items", 1, "deeper", "z"), 20),
        (("tables", "a", "items", 1, "deeper", "inline", "p", "q", 1), 21),
        (("tables", "a", "items", 1, "deeper", "inline", "r s"), 21),
        (("tables", "a", "missing"), 8),
        (("missing",), None),
        ((), None),
    ],
)
def test_key_path_has_the_line_it_stands_on(path, line):
    assert line_of(TOML, path) == line


keys = st.text(alphabet="ab-_ .\"'é#=[]", min_size=1, max_size=4)
leaves = st.one_of(st.integers(), st.booleans(), st.text(alphabet="a]}#\"'\\\n={[,", max_size=6))
trees = st.dictionaries(
    keys,
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


def as_toml(value: object) -> str:
    """A value in TOML's inline form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ",\n ".join(as_toml(item) for item in value) + "]"
    return "{" + ", ".join(f"{quoted(key)} = {as_toml(item)}" for key, item in value.items()) + "}"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@given(trees)
def test_every_key_of_any_table_is_found_on_its_line(tree):
    lines: list[str] = []
    expected = {}
    for key, value in tree.items():
        expected[key] = len("\n".join(lines).split("\n")) + 1 if lines else 1
        lines.append(f"{quoted(key)} = {as_toml(value)}")
    text = "\n".join(lines) + "\n"
    for key, line in expected.items():
        assert line_of(text, (key,)) == line


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        loads(text, environment={})


def test_own_address_of_this_machine_is_recognised_behind_a_wildcard():
    assert points_to_itself("0.0.0.0:80", "127.0.0.2:80")
    assert not points_to_itself("0.0.0.0:80", "192.0.2.1:80")  # documentation's own network: nobody's address
    assert not points_to_itself("0.0.0.0:80", "127.0.0.1:81")
    assert not points_to_itself("0.0.0.0:80", "server.example:80")
    assert not points_to_itself("unix:/a", "127.0.0.1:80")
    assert points_to_itself("0.0.0.0:80", f"{os.uname().nodename}:80")
