"""Servers from DNS and from files: whole answers count, by name; what is empty or broken is none and says why."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from fastroute.config.load import loads
from fastroute.config.membership import servers_of
from fastroute.config.schema import DiscoverConfig, ServerConfig
from fastroute.errors import ConfigError
from fastroute.metrics.notice import PoolChanges
from fastroute.sources import make_source
from fastroute.sources.dns import FAILED_S, TTL_MIN_S
from fastroute.sources.file import parse_servers
from tests.support.name_server import NameServer


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


def of(names: NameServer, **keys: object) -> DiscoverConfig:
    return DiscoverConfig(resolvers=(names.address,), **keys)


async def found(source: object) -> list[str]:
    answer = await source.ask()
    assert answer.note == "", answer
    return [one.address for one in answer.servers]


async def test_addresses_of_both_families_are_servers_for_as_long_as_they_may_be_kept(names: NameServer) -> None:
    names.set("app.test", "A", "10.0.0.2", "10.0.0.1", ttl=40)
    names.set("app.test", "AAAA", "fd00::1", ttl=30)
    answer = await make_source(of(names, dns="app.test:8080", weight=3)).ask()
    assert [(one.address, one.weight) for one in answer.servers] == [
        ("10.0.0.1:8080", 3),
        ("10.0.0.2:8080", 3),
        ("[fd00::1]:8080", 3),
    ]
    assert answer.again_s == 30


@pytest.mark.parametrize(("ttl", "again_s"), [(0, TTL_MIN_S), (7, 7), (86400, 60)])
async def test_the_time_to_live_is_kept_within_bounds(names: NameServer, ttl: int, again_s: float) -> None:
    names.set("app.test", "A", "10.0.0.2", ttl=ttl)
    assert (await make_source(of(names, dns="app.test:80", interval_s=60.0)).ask()).again_s == again_s


async def test_the_order_of_an_answer_does_not_matter(names: NameServer) -> None:
    source = make_source(of(names, dns="app.test:80"))
    names.set("app.test", "A", "10.0.0.3", "10.0.0.1", "10.0.0.2")
    before = await source.ask()
    names.set("app.test", "A", "10.0.0.2", "10.0.0.3", "10.0.0.1")
    assert await source.ask() == before


async def test_an_answer_that_is_empty_broken_or_partial_is_none(names: NameServer) -> None:
    source = make_source(of(names, dns="app.test:80"))
    empty = await source.ask()
    assert (empty.servers, empty.again_s) == (None, FAILED_S)
    assert "no address" in empty.note
    names.set("app.test", "A", "10.0.0.2")
    assert await found(source) == ["10.0.0.2:80"]
    names.broken_kinds = {"AAAA"}
    assert (await source.ask()).servers is None
    names.broken_kinds, names.broken = set(), True
    assert (await source.ask()).servers is None


async def test_service_records_say_ports_weights_and_backups(names: NameServer) -> None:
    names.set("_http._tcp.app.test", "SRV", "10 5 8080 a.test.", "10 0 8081 a.test.", "20 7 9090 b.test.", ttl=50)
    names.set("a.test", "A", "10.0.0.1", ttl=20)
    names.set("b.test", "A", "10.0.0.2", ttl=20)
    answer = await make_source(of(names, srv="_http._tcp.app.test")).ask()
    assert [(one.address, one.weight, one.backup) for one in answer.servers] == [
        ("10.0.0.1:8080", 5, False),
        ("10.0.0.1:8081", 1, False),
        ("10.0.0.2:9090", 7, True),
    ]
    assert answer.again_s == 20
    names.set("b.test", "A")
    assert (await make_source(of(names, srv="_http._tcp.app.test")).ask()).servers is None, "one target has no address"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["10.0.0.2:80", {"name": "w", "address": "10.0.0.1:80", "weight": 2}]'),
        ("a.json", '{"servers": [{"name": "w", "address": "10.0.0.1:80", "weight": 2}, "10.0.0.2:80"]}'),
        ("a.toml", 'servers = ["10.0.0.2:80", { name = "w", address = "10.0.0.1:80", weight = 2 }]'),
        ("a.toml", '[[servers]]\naddress = "10.0.0.2:80"\n[[servers]]\nname="w"\naddress="10.0.0.1:80"\nweight=2'),
    ],
)
def test_a_file_is_read_in_either_form(name: str, text: str) -> None:
    assert parse_servers(text.encode(), name) == (
        ServerConfig(address="10.0.0.2:80"),
        ServerConfig(address="10.0.0.1:80", name="w", weight=2),
    )


BROKEN = ["", "[", "[]", "7", '{"x": 1}', '["no address"]', '[{"address": "a:1", "wight": 2}]', "[7]"]


@pytest.mark.parametrize("text", BROKEN)
async def test_a_file_that_is_empty_or_broken_is_none_and_says_why(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "servers.json"
    path.write_text(text)
    answer = await make_source(DiscoverConfig(file=str(path))).ask()
    assert answer.servers is None
    assert str(path) in answer.note


async def test_a_file_is_read_again_when_it_was_replaced_and_not_before(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "servers.json"
    source = make_source(DiscoverConfig(file=str(path)))
    assert (await source.ask()).servers is None
    path.write_text('["10.0.0.1:80"]')
    first = await source.ask()
    assert await source.ask() is first
    aside = tmp_path / "aside"
    aside.write_text('["10.0.0.2:80"]')
    status = path.stat()
    os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
    aside.rename(path)
    assert await found(source) == ["10.0.0.2:80"], "another inode, whatever its time"
    path.unlink()
    assert "No such file" in (await source.ask()).note


def test_names_decide_who_is_a_server() -> None:
    one, two, three = (ServerConfig(address=f"10.0.0.{n}:80", name=f"w{n}") for n in (1, 2, 3))
    other = ServerConfig(address="10.9.9.9:80", name="w1")
    assert servers_of([one], None) == (one,)
    assert servers_of([one], PoolChanges(found=[other, two])) == (one, two), "the file comes first"
    assert servers_of([one], PoolChanges(found=[two], added=[three], removed=["w2"])) == (one, three)
    assert servers_of([one], PoolChanges(added=[other], removed=["w1"])) == (other,), "removed, and added again"
    assert servers_of([one, two], PoolChanges(added=[other])) == (one, two)


@pytest.mark.parametrize(
    ("discover", "says"),
    [
        ("", "one of dns, srv and file"),
        ('dns = "a:1"\nfile = "/x"', "one of dns, srv and file"),
        ('dns = "a"', "host:port"),
        ('dns = "a:1"\nresolvers = ["ns.test:53"]', "resolvers"),
    ],
)
def test_a_source_that_cannot_be_is_refused(discover: str, says: str) -> None:
    text = f'[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[pools.app]\n[pools.app.discover]\n{discover}\n'
    with pytest.raises(ConfigError, match=says):
        loads(text)
