"""The library without sockets: pick servers by key, bind users, move them when a server fails."""

import asyncio

from fastroute import Affinity, Pool, Router, Server

servers = [Server(f"10.0.0.{n}:8080", name=f"web-{n}") for n in (1, 2, 3)]


async def main() -> None:
    # Consistent hashing: the same key, the same server; another server more or less moves only its own share.
    images = Pool("images", servers, policy="hash")
    assert images.select("/logo.png") is images.select("/logo.png")

    # Sticky round robin: a new user gets the next server in turn and stays.
    pool = Pool("app", servers)
    async with Affinity() as affinity:  # the zone alone; Affinity(Memcached([...])) for several machines
        router = Router(pool, affinity=affinity, key="cookie:sid")
        first = await router.route("user-1")
        assert (await router.route("user-1")).server is first.server

        # Its server fails: the user moves once, to a server on which every balancer agrees, and stays there.
        pool.set_state(first.server.name, "down")
        moved = await router.route("user-1")
        assert moved.server is not first.server
        pool.set_state(first.server.name, "ready")
        assert (await router.route("user-1")).server is moved.server
        print(f"user-1: {first.server.name}, then {moved.server.name} ({moved.reason}), and no way back")


asyncio.run(main())
