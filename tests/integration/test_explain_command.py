"""`fastroute explain` and `fastroute preview` over files, a zone that somebody uses, and a real store."""

from __future__ import annotations

import asyncio
import json
import os
import uuid

import pytest
from click.testing import CliRunner, Result

from fastroute import Affinity, Memcached, Pool, Router, Server, Zone
from fastroute._core.affinity_table import AffinityTable
from fastroute._core.token import TokenCodec
from fastroute.affinity.base import identity_of
from fastroute.cli import main
from fastroute.cli.zone_copy import zone_path
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def fleet():
    """A fleet's name that nobody uses; its zone is gone afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    Zone.unlink(name)


def written(tmp_path, fleet: str, *, servers: int = 3, pool: str = "", top: str = "", name: str = "fr.toml") -> str:
    rows = "".join(f'[[pools.app.servers]]\nname = "S{n}"\naddress = "10.0.0.{n}:80"\n' for n in range(1, servers + 1))
    path = tmp_path / name
    path.write_text(
        f'fleet = "{fleet}"\nidentity_secret = "{SECRET.decode()}"\n'
        f'zone = {{ size = "1MiB" }}\n{top}\n[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n'
        f"[pools.app]\n{pool}\n{rows}"
    )
    os.chmod(path, 0o600)
    return str(path)


STICKY = "[pools.app.sticky]\non = 'header:X-User'\n"


def sticky(tmp_path, fleet: str, **options) -> str:
    path = written(tmp_path, fleet, **options)
    with open(path, "a") as file:
        file.write(STICKY)
    return path


def replica_zone(fleet: str) -> Zone:
    return Zone(fleet, 1 << 20, identity_of(SECRET, fleet))


def replica_pool(fleet: str, zone: Zone, servers: int = 3) -> Pool:
    rows = [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, servers + 1)]
    return Pool("app", rows, zone=zone, fleet=fleet)


def test_explain_of_a_hash_pool_prints_the_pick(tmp_path, fleet):
    path = written(tmp_path, fleet, pool='policy = "hash"\nkey = "header:X-User"')
    pool = Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 4)], policy="hash")
    found = run("explain", "-c", path, "--pool", "app", "--key", "u")
    assert found.exit_code == 0
    assert f"'u' -> {pool.select('u').name}" in found.stdout
    plain = json.loads(run("explain", "-c", path, "--pool", "app", "--key", "u", "--json").stdout)
    assert plain["pick"] == pool.select("u").name


def test_explain_without_a_zone_says_so_and_makes_none(tmp_path, fleet):
    found = run("explain", "-c", sticky(tmp_path, fleet), "--pool", "app", "--key", "u")
    assert found.exit_code == 0
    assert f"zone '{fleet}' is not there" in found.stdout
    assert not os.path.exists(zone_path(fleet))


def bound_in_zone(fleet: str, keys: int) -> dict[str, str]:
    """What a replica did in the zone: user u0.. -> server."""

    async def bind(zone: Zone) -> dict[str, str]:
        async with Affinity(identity_secret=SECRET, fleet=fleet, zone=zone) as affinity:
            router = Router(replica_pool(fleet, zone), affinity=affinity)
            return {f"u{n}": (await router.route(f"u{n}")).server.name for n in range(keys)}

    with replica_zone(fleet) as zone:
        return asyncio.run(bind(zone))


def test_explain_finds_the_binding_in_a_zone_and_changes_not_a_byte_of_it(tmp_path, fleet):
    bound = bound_in_zone(fleet, 20)
    path = sticky(tmp_path, fleet)
    with open(zone_path(fleet), "rb") as file:
        before = file.read()
    for key, name in bound.items():
        plain = json.loads(run("explain", "-c", path, "--pool", "app", "--key", key, "--json").stdout)
        assert (plain["pick"], plain["reason"], plain["zone"]["server"]) == (name, "affinity-near", name)
    with open(zone_path(fleet), "rb") as file:
        assert file.read() == before


def test_explain_shows_the_zones_turn_of_round_robin(tmp_path, fleet):
    bound_in_zone(fleet, 4)
    plain = json.loads(run("explain", "-c", sticky(tmp_path, fleet), "--pool", "app", "--key", "new", "--json").stdout)
    assert (plain["pick"], plain["reason"]) == ("S2", "policy")


def test_explain_of_the_balancers_own_cookie_reads_the_key_inside(tmp_path, fleet):
    secret = "a cookie secret of at least 32 bytes, yes"
    path = written(tmp_path, fleet, top=f'secret = "{secret}"')
    with open(path, "a") as file:
        file.write("[pools.app.sticky]\non = 'insert'\n")
    codec = TokenCodec([secret.encode()], fleet, "affinity:app")
    cookie = codec.sign_text(b"0123456789abcdef", codec.server_digest("S2"), 5, 1, 1)
    plain = json.loads(run("explain", "-c", path, "--pool", "app", "--key", cookie, "--json").stdout)
    assert plain["key"] == "0123456789abcdef"
    plain = json.loads(run("explain", "-c", path, "--pool", "app", "--key", cookie[:-2] + "AA", "--json").stdout)
    assert plain["key"] is None
    assert any("refused" in note for note in plain["notes"])


def test_explain_of_a_pool_that_is_not_there_names_those_that_are(tmp_path, fleet):
    found = run("explain", "-c", written(tmp_path, fleet), "--pool", "nope", "--key", "u")
    assert found.exit_code == 2
    assert "it has: app" in found.stderr


def test_explain_asks_the_store_and_leaves_the_record_alone(tmp_path, fleet):
    with MemcachedServer() as server:
        path = sticky(tmp_path, fleet, top=f'[store]\nmemcached = ["{server.address}"]\ntimeout = "5s"')

        async def bind() -> tuple[str, int]:
            async with (
                Memcached([server.address], timeout="5s", watch=False) as store,
                Affinity(store, identity_secret=SECRET, fleet=fleet) as affinity,
            ):
                rows = [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 4)]
                pool = Pool("app", rows, fleet=fleet)
                pool.select()
                bound = await Router(pool, affinity=affinity).route("u")
                return bound.server.name, bound.term

        name, term = asyncio.run(bind())
        plain = json.loads(run("explain", "-c", path, "--pool", "app", "--key", "u", "--json").stdout)
        assert (plain["pick"], plain["reason"], plain["certain"]) == (name, "affinity-store", True)
        assert plain["store"]["term"] == f"{term:#x}"
        stranger = json.loads(run("explain", "-c", path, "--pool", "app", "--key", "v", "--json").stdout)
        assert (stranger["store"]["status"], stranger["reason"]) == ("miss", "policy")
        server.kill()
        away = json.loads(run("explain", "-c", path, "--pool", "app", "--key", "u", "--json").stdout)
        assert (away["store"]["status"], away["reason"]) == ("down", "fallback-hash")


def test_preview_counts_the_live_bindings_of_servers_that_leave(tmp_path, fleet):
    bound = bound_in_zone(fleet, 20)
    path, to = sticky(tmp_path, fleet), sticky(tmp_path, fleet, servers=2, name="to.toml")
    gone = sum(name == "S3" for name in bound.values())
    plain = json.loads(run("preview", "-c", path, "--to", to, "--json").stdout)["pools"][0]
    assert (plain["removed"], plain["bindings"], plain["orphaned"]) == (["S3"], 20, gone)
    text = run("preview", "-c", path, "--to", to).stdout
    assert f"live bindings: 20, orphaned: {gone}" in text
    with replica_zone(fleet) as zone:
        assert len(AffinityTable(zone).scan(0, 1000, 0)[0]) >= 20


def test_preview_of_a_hash_pool_is_exact(tmp_path, fleet):
    pool = 'policy = "hash"\nkey = "header:X-User"\nslots = 4096'
    path, to = written(tmp_path, fleet, pool=pool), written(tmp_path, fleet, pool=pool, servers=4, name="to.toml")
    plain = json.loads(run("preview", "-c", path, "--to", to, "--json").stdout)["pools"][0]
    assert (plain["method"], plain["added"], plain["needless"]) == ("exact", ["S4"], 0)
    assert plain["moved"] == pytest.approx(0.25, abs=0.03)


def test_preview_refuses_a_file_that_check_refuses(tmp_path, fleet):
    path = written(tmp_path, fleet)
    found = run("preview", "-c", path, "--to", str(tmp_path / "none.toml"))
    assert found.exit_code == 1
    assert "none.toml" in found.stderr
