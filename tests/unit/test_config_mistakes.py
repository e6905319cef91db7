"""Every mistake in a configuration is one error with the line, what was found and what is accepted."""

from __future__ import annotations

import os

import pytest

from fastroute.config.load import FILE_BYTES_MAX, load, loads
from fastroute.errors import ConfigError

GOOD = """\
secret = "0123456789abcdef0123456789abcdef"
identity_secret = "fedcba9876543210fedcba9876543210"
fleet = "fr"
[store]
memcached = ["10.0.0.5:11211"]
[listeners.web]
bind = "0.0.0.0:8080"
pool = "app"
[pools.app]
policy = "round-robin"
[[pools.app.servers]]
name = "web-1"
address = "10.0.0.11:8080"
[[pools.app.servers]]
name = "web-2"
address = "10.0.0.12:8080"
weight = 2
[pools.app.sticky]
on = "insert"
ttl = "30m"
"""

SERVER_1 = 'name = "web-1"\naddress = "10.0.0.11:8080"'


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loads(text, path="f.toml", environment={})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("f.toml:" if caught.value.line is None else f"f.toml:{caught.value.line}: ")
    return caught.value


def test_good_file_has_no_mistake_and_no_warning():
    assert loads(GOOD).warnings == ()


# (what is replaced, by what, line, what the message says)
MISTAKES = [
    # keys
    ("weight = 2", "wieght = 2", 17, ['unknown key "wieght"', 'did you mean "weight"?']),
    ("fleet =", "flet =", 3, ['unknown key "flet"', '"fleet"']),
    ("fleet =", "xyzzy =", 3, ['unknown key "xyzzy"', "accepted: access_log, admin, "]),
    ("[store]", "[shop]", 4, ['unknown key "shop"']),
    ("on = ", "timeout = 1\non = ", 19, ['unknown key "timeout"']),
    ("[pools.app.sticky]", "[pools.app.stiky]", 18, ['unknown key "stiky"', '"sticky"']),
    ("on = ", 'cookie.nam = "x"\non = ', 19, ['unknown key "nam"', '"name"']),
    ("bind =", "ttl = 1\nbind =", 7, ['unknown key "ttl"']),
    # types: nothing is coerced
    ("weight = 2", 'weight = "2"', 17, ['weight: found "2"', "whole number from 0 to 65535"]),
    ("weight = 2", "weight = true", 17, ["found true"]),
    ("weight = 2", "weight = 2.0", 17, ["found 2.0"]),
    ("weight = 2", "weight = -1", 17, ["found -1"]),
    ("weight = 2", "weight = 65536", 17, ["found 65536"]),
    ("weight = 2", "weight = nan", 17, ["found nan"]),
    ("weight = 2", "weight = inf", 17, ["found inf"]),
    ("weight = 2", "weight = 1e308", 17, ["found 1e+308"]),
    ("weight = 2", "weight = [2]", 17, ["found a list"]),
    ("weight = 2", "weight = 1979-05-27", 17, ["found 1979-05-27"]),
    ('fleet = "fr"', "fleet = 5", 3, ["found 5", "1-64 characters"]),
    ('fleet = "fr"', 'fleet = "a b"', 3, ['found "a b"']),
    ('fleet = "fr"', 'fleet = "a\\nb"', 3, ['found "a\\nb"']),
    ('fleet = "fr"', f'fleet = "{"x" * 65}"', 3, ["1-64 characters"]),
    ('fleet = "fr"', 'debug_headers = "yes"', 3, ['found "yes"', "true or false"]),
    ('fleet = "fr"', "debug_headers = 1", 3, ["found 1", "true or false"]),
    ('fleet = "fr"', "store = 1", 4, ["not valid TOML"]),
    ("[store]", "[[store]]", 4, ["found a list", "a table"]),
    ("[store]\nmemcached", "memcached", 4, ['unknown key "memcached"']),
    # workers, zone
    ('fleet = "fr"', "workers = 0", 3, ["found 0", '"auto"']),
    ('fleet = "fr"', "workers = 1.5", 3, ["found 1.5"]),
    ('fleet = "fr"', 'workers = "two"', 3, ['found "two"']),
    ('fleet = "fr"', "workers = 100000", 3, ["found 100000", "256"]),
    ('fleet = "fr"', 'zone = { size = "1KiB" }', 3, ['size: found "1KiB"']),
    ('fleet = "fr"', 'zone = { size = "64MB" }', 3, ['size: found "64MB"', '"64MiB"']),
    ('fleet = "fr"', "zone = { size = -1 }", 3, ["found -1"]),
    ('fleet = "fr"', 'zone = { name = "a/b" }', 3, ['found "a/b"']),
    # durations and sizes
    ('ttl = "30m"', 'ttl = "30"', 20, ['ttl: found "30"', '"30m"']),
    ('ttl = "30m"', "ttl = 0", 20, ["found 0"]),
    ('ttl = "30m"', "ttl = -1", 20, ["found -1"]),
    ('ttl = "30m"', "ttl = inf", 20, ["found inf"]),
    ('ttl = "30m"', "ttl = nan", 20, ["found nan"]),
    ('ttl = "30m"', "ttl = 1e12", 20, ["30 days"]),
    ('ttl = "30m"', 'ttl = "31d"', 20, ['found "31d"', "30 days"]),
    ('ttl = "30m"', "ttl = true", 20, ["found true"]),
    ('ttl = "30m"', 'ttl = "1 h"', 20, ['found "1 h"']),
    ('ttl = "30m"', 'ttl = "१m"', 20, ["ttl: found"]),
    ('pool = "app"', 'pool = "app"\nlimits.body_bytes = -1', 9, ["body_bytes: found -1"]),
    ('pool = "app"', 'pool = "app"\nlimits.fields = 257', 9, ["fields: found 257", "256"]),
    ('pool = "app"', 'pool = "app"\nlimits.head_bytes = 0', 9, ["head_bytes: found 0"]),
    ('pool = "app"', 'pool = "app"\ntimeouts.head = 0', 9, ["head: found 0", "longer than 0"]),
    ('pool = "app"', 'pool = "app"\ntimeouts = 5', 9, ["found 5", "a table"]),
    ("weight = 2", "weight = 2\n[pools.app.retry]\nattempts = 11", 19, ["attempts: found 11"]),
    ("weight = 2", "weight = 2\n[pools.app.timeouts]\nconnect = '0s'", 19, ['connect: found "0s"']),
    # addresses
    ('bind = "0.0.0.0:8080"', 'bind = "0.0.0.0:0"', 7, ['bind: found "0.0.0.0:0"', "port 1-65535"]),
    ('bind = "0.0.0.0:8080"', 'bind = "0.0.0.0:65536"', 7, ["port 1-65535"]),
    ('bind = "0.0.0.0:8080"', 'bind = "0.0.0.0:80a"', 7, ['found "0.0.0.0:80a"']),
    ('bind = "0.0.0.0:8080"', 'bind = "::1:8080"', 7, ['"[v6]:port"']),
    ('bind = "0.0.0.0:8080"', 'bind = "[::z]:8080"', 7, ['found "[::z]:8080"']),
    ('bind = "0.0.0.0:8080"', 'bind = "8080"', 7, ['found "8080"']),
    ('bind = "0.0.0.0:8080"', "bind = 8080", 7, ["found 8080"]),
    ('bind = "0.0.0.0:8080"', "bind = []", 7, ["found an empty list"]),
    ('bind = "0.0.0.0:8080"', 'bind = "unix:"', 7, ['found "unix:"']),
    ('bind = "0.0.0.0:8080"', f'bind = "unix:/{"x" * 107}"', 7, ["107 bytes"]),
    ('bind = "0.0.0.0:8080"', 'bind = "fd:2"', 7, ["inherited socket"]),
    ('bind = "0.0.0.0:8080"', 'bind = "systemd:a b"', 7, ["inherited socket"]),
    ('bind = "0.0.0.0:8080"', 'bind = [\n "127.0.0.1:8080",\n "127.0.0.1:99999"]', 9, ['found "127.0.0.1:99999"']),
    ('"10.0.0.12:8080"', '"10.0.0.12"', 16, ['address: found "10.0.0.12"']),
    ('"10.0.0.12:8080"', '"http://10.0.0.12:80"', 16, ["address: found"]),
    ('address = "10.0.0.12:8080"\n', "", 14, ["address is missing"]),
    ('memcached = ["10.0.0.5:11211"]', "memcached = []", 5, ["found an empty list"]),
    ('memcached = ["10.0.0.5:11211"]', 'memcached = "10.0.0.5:11211"', 5, ["a list"]),
    ('memcached = ["10.0.0.5:11211"]', 'memcached = ["h:1", "h:1"]', 5, ['"h:1" stands twice']),
    ('memcached = ["10.0.0.5:11211"]', 'memcached = ["10.0.0.5"]', 5, ['found "10.0.0.5"']),
    ('memcached = ["10.0.0.5:11211"]', "", 4, ["memcached is missing"]),
    # listeners, pools, servers
    ('pool = "app"', 'pool = "ap"', 8, ['pool "ap" is nowhere defined', 'did you mean "app"?']),
    ('pool = "app"', 'pool = "zzz"', 8, ["defined are: app"]),
    ('pool = "app"', "", 6, ["pool is missing"]),
    ("[listeners.web]", '[listeners."a b"]', 6, ['listener name "a b"']),
    ("[listeners.web]", "[listener.web]", 6, ['unknown key "listener"', '"listeners"']),
    ("name = \"web-2\"", 'name = "web-1"', 14, ['server name "web-1" is that of server 1']),
    ("weight = 2", "backup = 1", 17, ["backup: found 1"]),
    ('"round-robin"', '"roundrobin"', 10, ['found "roundrobin"', '"round-robin", "random", "hash"']),
    ('policy = "round-robin"', "slots = 0", 10, ["slots: found 0"]),
    ('policy = "round-robin"', "slots = 10000000000", 10, ["slots: found 10000000000"]),
    ('policy = "round-robin"', 'key = "client-ip"', 10, ['policy = "hash" only']),
    ('policy = "round-robin"', 'policy = "hash"\nkey = "insert"', 11, ['found "insert"']),
    ('policy = "round-robin"', 'policy = "hash"\nkey = "header:X-Id"', 11, ["one rule for both"]),
    # a server that is the balancer itself
    ('"10.0.0.12:8080"', '"127.0.0.1:8080"', 16, ['is listener "web" (0.0.0.0:8080) itself']),
    ('"10.0.0.12:8080"', '"localhost:8080"', 16, ['is listener "web"']),
    ('"10.0.0.12:8080"', '"127.9.9.9:8080"', 16, ['is listener "web"']),
    ('"10.0.0.12:8080"', '"0.0.0.0:8080"', 16, ['is listener "web"']),
    # sticky
    ('on = "insert"', 'on = "cookie:"', 19, ["the cookie's name"]),
    ('on = "insert"', 'on = "cookie:a b"', 19, ['"a b" is not acceptable']),
    ('on = "insert"', 'on = "cookie"', 19, ['found "cookie"']),
    ('on = "insert"', 'on = "header:Naïve"', 19, ["is not acceptable"]),
    ('on = "insert"', "on = 3", 19, ["found 3"]),
    ('on = "insert"', 'on = "insert"\ncookie = { name = "a;b" }', 20, ['name: found "a;b"']),
    ('on = "insert"', 'on = "insert"\ncookie = { same_site = "none" }', 20, ['"Lax", "Strict" or "None"']),
    ('on = "insert"', 'on = "insert"\ncookie = { same_site = "None" }', 20, ['secure = "always"']),
    ('on = "insert"', 'on = "insert"\ncookie = { domain = "a b" }', 20, ['domain: found "a b"']),
    # trusted proxies
    ('pool = "app"', 'pool = "app"\ntrusted_proxies = ["0.0.0.0/0"]', 9, ["would trust every address"]),
    ('pool = "app"', 'pool = "app"\ntrusted_proxies = ["::/0"]', 9, ["would trust every address"]),
    ('pool = "app"', 'pool = "app"\ntrusted_proxies = ["10.0.0.1/8"]', 9, ['write "10.0.0.0/8" or "10.0.0.1"']),
    ('pool = "app"', 'pool = "app"\ntrusted_proxies = ["proxy.example"]', 9, ['found "proxy.example"']),
    ('pool = "app"', 'pool = "app"\ntrusted_proxies = "10.0.0.0/8"', 9, ["a list of"]),
    # secrets
    ('secret = "0123456789abcdef0123456789abcdef"\n', "", 17, ["no secret is configured", '"env:FASTROUTE_SECRET"']),
    ('"0123456789abcdef0123456789abcdef"', '"short"', 1, ["holds 5 bytes", "32 to 4096"]),
    ('"0123456789abcdef0123456789abcdef"', f'"{"0" * 32}"', 1, ["can be guessed"]),
    ('"0123456789abcdef0123456789abcdef"', '"changeme"', 1, ["holds 8 bytes"]),
    ('"0123456789abcdef0123456789abcdef"', '"env:NO_SUCH"', 1, ['environment variable "NO_SUCH" is not set']),
    ('"0123456789abcdef0123456789abcdef"', '"file:/no/such"', 1, ['"/no/such" cannot be read: No such file']),
    ('"0123456789abcdef0123456789abcdef"', "1", 1, ["found 1"]),
    ('"0123456789abcdef0123456789abcdef"', '""', 1, ['found ""']),
    ('"fedcba9876543210fedcba9876543210"', '"short"', 2, ["identity_secret: the text holds 5 bytes"]),
    # TOML itself
    ('fleet = "fr"', 'fleet = "fr"\nfleet = "fr"', 4, ["not valid TOML", "overwrite"]),
    ("[store]", "[store", 4, ["not valid TOML"]),
    ('fleet = "fr"', "fleet = fr", 3, ["not valid TOML", 'found "fleet = fr"']),
    ('fleet = "fr"', "fleet = 010", 3, ["not valid TOML"]),
    ('fleet = "fr"', "fleet: fr", 3, ["not valid TOML"]),
    ("[store]", "[pools.app]\n[store]", 10, ["not valid TOML"]),
    ("weight = 2", "weight = " + "9" * 5000, None, ["not valid TOML"]),
    ("weight = 2", "weight = " + "9" * 100, 17, ["a number of more than 38 digits"]),
    ("weight = 2", "weight = " + "[" * 100_000, None, ["nested too deeply"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [pytest.param(*row, id=row[1][:40] or f"without {row[0][:30]}") for row in MISTAKES],
)
def test_mistake_names_its_line_what_was_found_and_what_is_accepted(old, new, line, says):
    assert old in GOOD
    error = refused(GOOD.replace(old, new, 1))
    assert error.line == line, error
    for words in says:
        assert words in str(error)


def test_sum_of_weights_of_zero_is_refused():
    text = GOOD.replace(SERVER_1, f"{SERVER_1}\nweight = 0").replace("weight = 2", "weight = 0")
    error = refused(text)
    assert (error.line, "all servers have weight 0" in str(error)) == (11, True)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n"])
def test_empty_file_says_what_is_missing(text):
    assert "no listener is configured" in str(refused(text))


def test_pool_without_servers_is_refused():
    text = '[listeners.web]\nbind = "127.0.0.1:80"\npool = "app"\n[pools.app]\npolicy = "random"\n'
    error = refused(text)
    assert (error.line, "servers is missing" in str(error)) == (4, True)


def test_hash_without_a_key_is_refused():
    text = GOOD.replace('"round-robin"', '"hash"')
    text = text[: text.index("[pools.app.sticky]")]
    assert 'policy = "hash" needs a key' in str(refused(text))


SECRET_LINE = 'secret = "0123456789abcdef0123456789abcdef"'


@pytest.mark.parametrize(
    "line",
    [
        'secret = "hunter2"',
        'secret = "hunter2',
        'secret = hunter2"',
        'secret = "hunter2", "hunter2"',
        'secret = ["hunter2-0123456789abcdef01234567", "hunter2-0123456789abcdef01234567"]',
        'secret = ["hunter2-0123456789abcdef01234567", "hunter2"]',
        'store.password = "hunter2"',
    ],
)
def test_secret_is_not_in_the_message_about_it(line):
    error = refused(
        GOOD.replace(SECRET_LINE, line).replace("[store]\n", "").replace('memcached = ["10.0.0.5:11211"]', "")
    )
    assert error.line == 1
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ('tls = "yes"', "true, false or {"),
        ('tls = { cert = "x" }', "unknown key"),
        ('tls = { ca = "/nonexistent.pem" }', "cannot be read"),
        ('tls = { key = "/dev/null" }', "certificate, which is missing"),
        ('username = "u"', "both or none"),
        ('password = "p"', "both or none"),
        ('username = "u"\npassword = "env:NOT_THERE"', "NOT_THERE"),
    ],
)
def test_store_options_that_cannot_work_are_refused(added, message):
    error = refused(GOOD.replace("[store]", f"[store]\n{added}", 1))
    assert message in str(error)
    assert error.line is not None


def test_a_store_takes_tls_and_a_short_password():
    text = GOOD.replace("[store]", '[store]\ntls = { ca = "/dev/null" }\nusername = "u"\npassword = "env:WORD"', 1)
    config = loads(text, environment={"WORD": "pa55"}).config
    assert config.store.tls.ca == "/dev/null"
    assert config.store.password == b"pa55"
    assert "pa55" not in repr(config.store)
    assert loads(GOOD.replace("[store]", "[store]\ntls = true", 1)).config.store.tls is True


def test_more_copies_than_nodes_are_refused():
    error = refused(GOOD.replace("[store]", "[store]\ncopies = 2", 1))
    assert "accepted: 1 to 1" in str(error)
    two = GOOD.replace('"10.0.0.5:11211"', '"10.0.0.5:11211", "10.0.0.6:11211"', 1)
    assert loads(two.replace("[store]", "[store]\ncopies = 2", 1)).config.store.copies == 2


@pytest.mark.parametrize("policy", ["random", "least-connections", "two-choices", "peak-ewma", "prequal"])
def test_every_policy_by_name_is_accepted(policy):
    assert loads(GOOD.replace('"round-robin"', f'"{policy}"', 1)).config.pools["app"].policy == policy


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("max_load = 1.25", "max_load bounds policy"),
        ('policy = "hash"\nmax_load = 0.5', "accepted: 0 (no bound) and 1.01 to 100"),
        ('policy = "random"\ncharge_sticky = true', "charge_sticky charges policy"),
        ("outlier.panic = 1.5", "panic"),
        ("slow_start.min_weight = 0", "min_weight"),
        ("slow_start.aggression = 0", "aggression"),
    ],
)
def test_policy_options_that_make_no_sense_are_refused(added, message):
    text = GOOD.replace('policy = "round-robin"\n', "", 1) if "policy" in added.split(" ")[0] else GOOD
    error = refused(text.replace("[pools.app]", f"[pools.app]\n{added}", 1))
    assert message in str(error)


HASHED = """
[listeners.web]
bind = "127.0.0.1:8080"
pool = "app"
[pools.app]
policy = "hash"
ring = "haproxy"
key = "client-ip"
[[pools.app.servers]]
address = "10.0.0.1:80"
id = 7
hash_key = "x"
[[pools.app.servers]]
address = "10.0.0.2:80"
weight = 3
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("weight = 3", "weight = 300", 13, "server 2: weight 300: this ring accepts 0 to 256"),
        ('"haproxy"', '"haproxy"\nring_options = { func = "djb2" }', 8, "option 'func' is unknown"),
        ('"haproxy"', '"haproxy"\nring_options = { function = "md5" }', 8, "accepted are sdbm, djb2, wt6"),
        ('"haproxy"', '"haproxy"\nring_options = { function = [1] }', 8, "a number, a text or a boolean"),
        ('"haproxy"', '"table"\nring_options = { x = 1 }', 8, "no options; its size is `slots`"),
        ("weight = 3", "id = 7", 7, "the same id 7"),
        ("id = 7", "id = 0", 11, "id: found 0"),
    ],
)
def test_what_a_ring_does_not_take_is_refused_with_its_line(old, new, line, message):
    error = refused(HASHED.replace(old, new, 1))
    assert message in str(error)
    assert error.line == line


def test_ids_hash_keys_and_ring_options_reach_the_ring():
    config = loads(HASHED.replace('"haproxy"', '"haproxy"\nring_options = { function = "djb2" }', 1)).config
    pool = config.pools["app"]
    assert pool.ring_options == {"function": "djb2"}
    assert [(server.id, server.hash_key) for server in pool.server_list()] == [(7, "x"), (None, None)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[store]", "[store]\ncopies = 1\nwatch = false\ntls = false\nusername = ''"),
        ("[store]", "[cache]\nenabled = false\n[access_log]\nformat = 'off'\n[store]"),
        ('pool = "app"', 'pool = "app"\nroutes = []\nproxy_protocol = false\nprotocol = "http"'),
        ("[pools.app]", "[pools.app]\nmax_load = 0\ncharge_sticky = false\nring = 'table'\nslow_start.window = 0"),
        ("[pools.app]", "[pools.app]\ncharge_sticky = true\noutlier.panic = 0.3\nslow_start.window = '30s'"),
        ('on = "insert"', 'on = "insert"\nmax_lifetime = 0\non_failure = "move"\nhint_cookie = false'),
    ],
)
def test_later_key_set_to_what_it_is_anyway_is_accepted(old, new):
    loads(GOOD.replace(old, new, 1))


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b'fleet = "fr"\n# caf\xe9\n', 2, "byte 0xe9 is not UTF-8"),
        (b"\xef\xbb\xbffleet = 'fr'\n", 1, "byte order mark"),
        (b'fleet = "fr"\n\n# \x00\n', 3, "NUL byte"),
        (b"#" * (FILE_BYTES_MAX + 1), None, f"larger than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_file_that_is_no_text_is_refused(tmp_path, data, line, says):
    path = tmp_path / "f.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert says in str(caught.value)


def test_file_that_is_not_there_or_not_a_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, says in (
        ("none", "cannot be read: No such file or directory"),
        (".", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("zero", "is not a regular file"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(f"{tmp_path}/{name}")
        assert says in str(caught.value)


def test_crlf_file_is_read_and_its_lines_are_counted(tmp_path):
    path = tmp_path / "f.toml"
    path.write_bytes(GOOD.replace("\n", "\r\n").encode())
    path.chmod(0o600)
    assert load(path).warnings == ()
    path.write_bytes(GOOD.replace("weight = 2", "wieght = 2").replace("\n", "\r\n").encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.line == 17


def test_hundred_thousand_comment_lines_do_not_hide_the_line_of_a_mistake():
    error = refused("#\n" * 100_000 + GOOD.replace("weight = 2", "weight = -2"))
    assert error.line == 100_017


def test_two_listeners_on_one_port_are_refused():
    for bind in ('"0.0.0.0:8080"', '"127.0.0.1:8080"', '["127.0.0.1:9", "10.1.1.1:8080"]'):
        error = refused(GOOD + f'[listeners.two]\nbind = {bind}\npool = "app"\n')
        assert error.line == 22
        assert 'of listener "web" are the same port' in str(error)


def test_ipv4_and_ipv6_wildcards_stand_beside_each_other():
    loads(GOOD + '[listeners.two]\nbind = "[::]:8080"\npool = "app"\n')


def test_listener_of_one_address_and_a_server_of_another_with_the_same_port_is_no_loop():
    loads(GOOD.replace("0.0.0.0:8080", "127.0.0.1:8080"))


@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ("[::]:8080", "[::1]:8080"),
        ("[::1]:8080", "[0:0:0:0:0:0:0:1]:8080"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:8080", "127.0.0.1:8080"),
        ("unix:/run/a.sock", "unix:/run/./a.sock"),
    ],
)
def test_listener_that_points_to_itself_is_refused(bind, server):
    text = GOOD.replace("0.0.0.0:8080", bind).replace("10.0.0.12:8080", server)
    error = refused(text)
    assert error.line == 16
    assert "itself" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[pools.app.sticky]", "[pools.app.sticky]\nmax_lifetime = true", "pools.app.sticky: max_lifetime: found true"),
        (
            "[pools.app.sticky]",
            "[pools.app.timeouts]\nidle = -1\n[pools.app.sticky]",
            "pools.app.timeouts: idle: found -1",
        ),
        ("[store]", '[store]\ntimeout = "soon"', 'store: timeout: found "soon"'),
        ("[store]", "[store]\ncopies = 2", "store: copies: found 2 with 1 nodes"),
        ("[store]", '[admin]\ntoken = "abc"\n[store]', "admin: token: found a literal"),
        ("[store]", "workers = 0\n[store]", "workers: found 0"),
    ],
)
def test_a_mistake_names_its_table_since_keys_of_several_are_alike(old, new, message):
    found = str(refused(GOOD.replace(old, new, 1)))
    assert f": {message}" in found or found.startswith(message)
