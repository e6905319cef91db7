"""Listening sockets: one per worker and address, kept through changes, none without a worker, none shared unseen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fastroute.config.load import loads
from fastroute.config.schema import Config
from fastroute.proxy.sockets import BindError, Sockets, close_dropped, close_socket, lend, open_sockets
from fastroute.proxy.supervisor import RESTART_DELAY_MAX_S, restart_delay_s
from tests.support.fleet import free_ports


def config(*binds: str, workers: int = 1) -> Config:
    loaded = loads(
        f'workers = {workers}\n[listeners.web]\nbind = {list(binds)}\npool = "app"\n'
        '[[pools.app.servers]]\naddress = "192.0.2.1:1"\n'
    )
    return loaded.config


@pytest.fixture
def opened() -> Iterator[list[Sockets]]:
    held: list[Sockets] = []
    yield held
    for sockets in held:
        for many in sockets.values():
            for one in many:
                if one.fileno() >= 0:
                    close_socket(one)


def test_every_worker_has_its_own_socket_on_one_port(opened):
    [port] = free_ports(1)
    found = config(f"127.0.0.1:{port}", workers=3)
    opened.append(open_sockets(found))
    lent = [lend(found, opened[0], index)["web"] for index in range(3)]
    assert [len(own) for own in lent] == [1, 1, 1]
    assert len({own[0].fileno() for own in lent}) == 3
    assert {own[0].getsockname() for own in lent} == {("127.0.0.1", port)}


def test_connections_are_spread_over_the_sockets(opened):
    [port] = free_ports(1)
    opened.append(open_sockets(config(f"127.0.0.1:{port}", workers=2)))
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    accepted = []
    for one in opened[0][f"127.0.0.1:{port}"]:
        count = 0
        while True:
            try:
                one.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        accepted.append(count)
    for client in clients:
        client.close()
    assert sum(accepted) == 64
    assert min(accepted) > 0


def test_sockets_are_kept_when_the_workers_change_and_none_is_left_without_one(opened):
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    three, five, two = (config(address, workers=count) for count in (3, 5, 2))
    opened.append(open_sockets(three))
    before = [one.fileno() for one in opened[0][address]]
    opened.append(open_sockets(five, opened[0]))
    assert [one.fileno() for one in opened[1][address]][:3] == before
    assert len(opened[1][address]) == 5
    opened.append(open_sockets(two, opened[1]))
    lent = [one.fileno() for index in range(2) for one in lend(two, opened[2], index)["web"]]
    assert sorted(lent) == sorted(one.fileno() for one in opened[1][address])


def test_port_of_another_program_is_refused_even_if_it_shares_it(opened):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BindError, match=f"listener 'web' cannot bind 127.0.0.1:{port}: it is taken"):
            open_sockets(config(f"127.0.0.1:{port}", workers=2))


def test_failure_leaves_nothing_open_and_what_was_held_untouched(opened):
    one, two = free_ports(2)
    opened.append(open_sockets(config(f"127.0.0.1:{one}")))
    with pytest.raises(BindError, match="does not have this address"):
        open_sockets(config(f"127.0.0.1:{one}", f"127.0.0.1:{two}", "192.0.2.1:80"), opened[0])
    assert opened[0][f"127.0.0.1:{one}"][0].fileno() >= 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", two))


def test_ipv6_wildcard_leaves_ipv4_alone(opened):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    [port] = free_ports(1)
    both = config(f"0.0.0.0:{port}", f"[::]:{port}")
    opened.append(open_sockets(both))
    assert len(lend(both, opened[0], 0)["web"]) == 2


def test_unix_socket_is_one_for_all_workers_and_goes_with_its_path(opened, tmp_path):
    address = f"unix:{tmp_path}/s"
    found = config(address, workers=3)
    opened.append(open_sockets(found))
    assert len(opened[0][address]) == 1
    assert {lend(found, opened[0], index)["web"][0].fileno() for index in range(3)} == {opened[0][address][0].fileno()}
    with pytest.raises(BindError, match="it is taken"):
        open_sockets(found)
    close_dropped(opened[0], {})
    assert not os.path.exists(f"{tmp_path}/s")


def test_file_that_is_no_socket_is_never_removed(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="it is taken"):
        open_sockets(config(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_dropped_addresses_are_closed_and_the_others_stay(opened):
    one, two = free_ports(2)
    both = open_sockets(config(f"127.0.0.1:{one}", f"127.0.0.1:{two}"))
    opened += [both, open_sockets(config(f"127.0.0.1:{two}"), both)]
    close_dropped(both, opened[1])
    assert both[f"127.0.0.1:{one}"][0].fileno() == -1
    socket.create_connection(("127.0.0.1", two)).close()


def test_replacement_of_a_dead_worker_waits_longer_each_time_up_to_a_limit():
    delays = [restart_delay_s(deaths) for deaths in range(1, 50)]
    assert delays[0] < 0.1
    assert delays == sorted(delays)
    assert delays[-1] == RESTART_DELAY_MAX_S
    assert restart_delay_s(10**9) == RESTART_DELAY_MAX_S
