"""How the demo counts: splits, moves and failures are told apart."""

from __future__ import annotations

import asyncio

import pytest

from fastroute.cli.demo.children import configuration, parse_ports
from fastroute.cli.demo.users import Tally, User, drive
from fastroute.config.load import loads
from fastroute.errors import UsageError


def test_user_answered_by_one_server_is_counted_once():
    tally, user = Tally(), User("u")
    for _ in range(3):
        tally.answered(user, "a", 1.0)
    assert (tally.users, tally.requests, tally.splits, tally.users_of["a"], tally.requests_of["a"]) == (1, 3, 0, 1, 3)


def test_user_answered_by_two_living_servers_is_split_once():
    tally, user = Tally(), User("u")
    for server in "abab":
        tally.answered(user, server, 1.0)
    assert (tally.users, tally.splits, tally.moved) == (1, 1, 0)
    assert +tally.users_of == {"b": 1}


def test_user_whose_server_ended_has_moved_and_is_not_split():
    tally, user = Tally(dead=lambda: {"a"}), User("u")
    for server in "abb":
        tally.answered(user, server, 1.0)
    assert (tally.splits, tally.moved) == (0, 1)


def test_percentiles_are_those_of_the_last_requests():
    tally, user = Tally(), User("u")
    assert tally.percentile_ms(0.99) == 0.0
    for latency_ms in range(100):
        tally.answered(user, "a", latency_ms)
    assert (tally.percentile_ms(0.5), tally.percentile_ms(0.99)) == (50, 99)


class Balancer:
    """A minimal server that answers as the named application server, or with the given status."""

    def __init__(self, answers: list[str], status: int = 200) -> None:
        self.answers, self.status, self.asked = answers, status, 0

    async def __aenter__(self) -> Balancer:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                name = self.answers[self.asked % len(self.answers)]
                self.asked += 1
                head = f"HTTP/1.1 {self.status} X\r\nX-Served-By: {name}\r\nContent-Length: 2\r\n\r\nok"
                writer.write(head.encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


async def test_users_come_to_both_replicas_and_requests_are_exactly_as_many_as_wanted():
    tally = Tally()
    async with Balancer(["a"]) as one, Balancer(["a"]) as two:
        await drive(tally, [one.port, two.port], users=20, requests=101)
    assert (tally.requests, tally.users, tally.failed, tally.splits) == (101, 20, 0, 0)
    assert one.asked + two.asked == 101
    assert min(one.asked, two.asked) >= 40


async def test_replicas_that_disagree_are_found_out():
    tally = Tally()
    async with Balancer(["a"]) as one, Balancer(["b"]) as two:
        await drive(tally, [one.port, two.port], users=20, requests=40)
    assert (tally.users, tally.splits) == (20, 20)


async def test_answer_other_than_200_is_a_failure():
    tally = Tally()
    async with Balancer(["a"], status=503) as one, Balancer(["a"]) as two:
        await drive(tally, [one.port, two.port], users=1, requests=4)
    assert (tally.requests, tally.failed, tally.last_failure) == (4, 2, f"port {one.port}: status 503")


async def test_replica_that_is_not_there_is_a_failure():
    tally = Tally()
    async with Balancer(["a"]) as one:
        dead = one.port
    await drive(tally, [dead, dead], users=1, requests=2)
    assert (tally.requests, tally.failed) == (2, 2)


@pytest.mark.parametrize("text", ["", "8080", "8080,8080", "1,2,3", "a,b", "-1,2", "70000,1", "8080;8081"])
def test_ports_that_are_no_two_ports_are_refused(text):
    with pytest.raises(UsageError, match="two different ports"):
        parse_ports(text)


def test_ports_may_be_two_numbers_or_any_free_ones():
    assert parse_ports("8080,8081") == (8080, 8081)
    assert parse_ports("0,0") == (0, 0)


@pytest.mark.parametrize("store", [None, "127.0.0.1:11211"])
def test_configuration_of_the_demo_has_no_mistake_and_draws_no_warning(store):
    secrets = {"FASTROUTE_SECRET": "0123456789abcdef" * 4, "FASTROUTE_IDENTITY_SECRET": "fedcba9876543210" * 4}
    loaded = loads(configuration(8080, {"app-1": 1, "app-2": 2}, "z", store), environment=secrets)
    assert loaded.warnings == ()
    assert [server.name for server in loaded.config.pools["app"].servers] == ["app-1", "app-2"]
