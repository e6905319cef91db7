"""TLS and credentials to the store: memcached -Z and -Y with a CA of our own, for both clients and for `serve`."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Iterator

import pytest

from fastroute import Affinity, Pool, Router, Server, errors
from fastroute.memcache import DOWN, HIT, STORED, Memcached, sync
from tests.integration.test_memcache_client import LOOPS, PATIENT, until
from tests.support import memcached
from tests.support.certificates import Certificates, make_certificates
from tests.support.fleet import Process, User, free_ports, running, start_replica, start_upstreams, unlink_zone


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def process(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[memcached.Memcached]:
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text("alice:secret\n")
    users.chmod(0o644)
    users.parent.chmod(0o755)
    options = f"ssl_chain_cert={certificates.certificate},ssl_key={certificates.key}"
    with memcached.Memcached("-Z", "-o", options, "-Y", str(users), tls_ca=certificates.ca) as process:
        yield process


@pytest.mark.parametrize("loop", LOOPS)
def test_requests_of_every_size_go_over_tls_with_credentials(
    loop: str, process: memcached.Memcached, certificates: Certificates
) -> None:
    async def run() -> None:
        tls = {"ca": certificates.ca}
        async with Memcached(process.address, timeout=PATIENT, tls=tls, username="alice", password="secret") as store:
            for size in (0, 1, 100_000, 1_000_000):
                assert (await store.set("k", b"x" * size, 60)).status == STORED
                reply = await store.get("k")
                assert (reply.status, reply.value) == (HIT, b"x" * size)
            replies = await asyncio.gather(*(store.add_then_get(f"k{n}", b"%d" % n, 60) for n in range(300)))
            assert [there.value for _, there in replies] == [b"%d" % n for n in range(300)]
            assert store.statistics()[0].connections == 1

    make: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"tls": True, "username": "alice", "password": "secret"}, "certificate verify failed"),
        ({"username": "alice", "password": "secret"}, "closed by the node"),
        ({"tls": "ca", "username": "alice", "password": "wrong"}, "credentials refused"),
        ({"tls": "ca"}, "unauthenticated"),
    ],
    ids=["unknown CA", "no TLS", "wrong password", "no credentials"],
)
async def test_a_node_that_cannot_be_trusted_or_does_not_trust_us_is_away_and_says_why(
    process: memcached.Memcached, certificates: Certificates, named: dict[str, object], reason: str
) -> None:
    named = {**named, **({"tls": {"ca": certificates.ca}} if named.get("tls") == "ca" else {})}
    async with Memcached(process.address, timeout="500ms", **named) as store:  # type: ignore[arg-type]
        assert (await store.get("k")).status == DOWN
        assert reason in str(store.statistics()[0].failure)


async def test_the_certificate_is_checked_against_the_name_that_was_asked_for(
    process: memcached.Memcached, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: resolve("127.0.0.1", *rest, **named))
    address = f"store.test:{process.port}"
    async with Memcached(
        address, timeout="500ms", tls={"ca": certificates.ca}, username="alice", password="secret"
    ) as store:
        assert (await store.get("k")).status == DOWN
        assert "store.test" in str(store.statistics()[0].failure)


async def test_a_tls_node_that_stops_costs_one_time_limit_and_comes_back(
    process: memcached.Memcached, certificates: Certificates
) -> None:
    async with Memcached(
        process.address, timeout="100ms", tls={"ca": certificates.ca}, username="alice", password="secret"
    ) as store:
        await until(lambda: store.up_nodes)
        process.suspend()
        try:
            assert not (await store.get("k")).known
            assert store.get("k").result().status == DOWN
        finally:
            process.resume()
        await until(lambda: store.up_nodes)


def test_the_blocking_client_goes_over_tls_with_credentials(
    process: memcached.Memcached, certificates: Certificates
) -> None:
    tls = {"ca": certificates.ca}
    with sync.Memcached(process.address, timeout=PATIENT, tls=tls, username="alice", password="secret") as store:
        assert store.set("s", b"v" * 100_000).status == STORED
        assert store.get("s").value == b"v" * 100_000
    with (
        sync.Memcached(process.address, timeout=PATIENT, tls=True, username="alice", password="secret") as store,
        pytest.raises(errors.MemcacheDown, match="certificate verify failed"),
    ):
        store.get("s")


async def test_serve_binds_through_a_store_with_tls_and_credentials(
    process: memcached.Memcached, certificates: Certificates, tmp_path: pathlib.Path
) -> None:
    upstream_ports, (port_a, port_b) = free_ports(2), free_ports(2)
    extra = f'tls = {{ ca = "{certificates.ca}" }}\nusername = "alice"\npassword = "secret"\n'
    zones = [f"tls-{port_a}", f"tls-{port_b}"]
    ups = start_upstreams(tmp_path, upstream_ports)
    replicas: list[Process] = []
    with running(*ups):
        try:
            for name, port, zone in (("a", port_a, zones[0]), ("b", port_b, zones[1])):
                replicas.append(
                    start_replica(
                        tmp_path, name, port=port, upstream_ports=upstream_ports, zone=zone,
                        memcached=[process.address], store_more=extra,
                    )
                )  # fmt: skip
            for n in range(20):
                user = User([port_a, port_b], f"sid=tls{n}")
                first, second = await asyncio.gather(user.get(port_a), user.get(port_b))
                assert first == second is not None
                await user.close()
        finally:
            for replica in replicas:
                replica.kill()
                replica.popen.wait(10)
            unlink_zone(*zones)


async def test_the_push_channel_goes_over_tls_with_credentials(
    process: memcached.Memcached, certificates: Certificates
) -> None:
    """Connections that watch and ask, beside those of requests: all of them over TLS, credentials first."""
    servers = [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 6)]
    named: dict[str, object] = {"tls": {"ca": certificates.ca}, "username": "alice", "password": "secret"}
    stores = [Memcached([process.address], timeout=PATIENT, **named) for _ in range(2)]  # type: ignore[arg-type]
    affinities = [Affinity(store, near_ttl="1h") for store in stores]
    one, other = (Router(Pool("app", servers), affinity=affinity, key="cookie:sid") for affinity in affinities)
    try:
        before = await one.route("u")
        assert (await other.route("u")).server.name == before.server.name
        await until(lambda: all(affinity.statistics.near_mode == "push" for affinity in affinities))
        while one.route_nowait("u") is None or other.route_nowait("u") is None:  # doubts of the beginning
            await asyncio.gather(one.route("u"), other.route("u"))
        moved = await one.move(before, None)
        await until(lambda: other.route_nowait("u") is None)
        assert (await other.route("u")).server.name == moved.server.name != before.server.name
        process.suspend()
        try:
            await until(lambda: all(affinity.statistics.near_mode == "poll" for affinity in affinities))
        finally:
            process.resume()
        await until(lambda: all(affinity.statistics.near_mode == "push" for affinity in affinities))
    finally:
        for affinity, store in zip(affinities, stores, strict=True):
            await affinity.aclose()
            await store.aclose()
