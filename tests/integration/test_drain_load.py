"""A deploy under load: through one of two replicas each server is drained, waited for, stopped, started and taken back
by the command line, and no request of anybody fails."""

from __future__ import annotations

import asyncio
import collections
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import httpx

from tests.support.admin import Admin, start_administered
from tests.support.fleet import Process, free_ports, running, start_upstreams, unlink_zone
from tests.support.memcached import Memcached

USERS, STRANGERS, WAIT_S = 8, 2, 30.0


async def until(what: Callable[[], bool], why: str) -> None:
    """As tests.support.admin.until, while clients of this loop go on."""
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.02)
    assert why


class Crowd:
    """Users who stay, and strangers who come once: all of them ask both replicas, all the time."""

    def __init__(self, webs: list[int]) -> None:
        self.webs, self.failed, self.answered = webs, [], 0
        self.served: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
        """(user, replica) -> the servers that served him there, one after the other, each change once: of a move by one
        replica the other one hears some milliseconds later."""
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._user(f"user-{n}")) for n in range(USERS)]
        self._tasks += [asyncio.create_task(self._strangers(n)) for n in range(STRANGERS)]

    async def stop(self) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Until so many more requests were answered."""
        wanted = self.answered + count
        async with asyncio.timeout(WAIT_S):
            while self.answered < wanted:
                await asyncio.sleep(0.01)

    async def _ask(self, client: httpx.AsyncClient, web: int, user: str, delay_s: float) -> None:
        try:
            path = f"/?delay={delay_s}" if delay_s else "/"
            answer = await client.get(f"http://127.0.0.1:{web}{path}", headers={"Cookie": f"sid={user}"})
        except httpx.HTTPError as error:
            self.failed.append(f"{user}: {error!r}")
            return
        if answer.status_code != 200:
            self.failed.append(f"{user}: {answer.status_code} {answer.text}")
            return
        self.answered += 1
        server = answer.headers["x-served-by"]
        served = self.served[user, web]
        if served[-1:] != [server]:
            served.append(server)

    async def _user(self, user: str) -> None:
        """Some of his requests take longer than the drain."""
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
            turn = 0
            while not self._ending:
                await self._ask(client, self.webs[turn % 2], user, 1.5 if turn % 20 == 19 else 0)
                turn += 1
                await asyncio.sleep(0.01)

    async def _strangers(self, number: int) -> None:
        turn = 0
        while not self._ending:
            async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:  # a new connection each
                await self._ask(client, self.webs[turn % 2], f"stranger-{number}-{turn}", 0)
            turn += 1
            await asyncio.sleep(0.02)


async def test_a_deploy_of_all_servers_under_load_costs_no_request(tmp_path: pathlib.Path) -> None:
    *ports, web_1, web_2, admin_1, admin_2 = free_ports(7)
    zones = [f"drainload{os.getpid()}-{n}" for n in range(2)]
    servers: dict[int, Process] = dict(zip(ports, start_upstreams(tmp_path, ports), strict=True))
    try:
        with Memcached() as store:
            replicas = [
                start_administered(
                    tmp_path,
                    f"fr{n}",
                    port=web,
                    admin_port=admin,
                    upstream_ports=ports,
                    zone=zones[n],
                    workers=2 - n,
                    memcached=[store.address],
                )
                for n, (web, admin) in enumerate(((web_1, admin_1), (web_2, admin_2)))
            ]
            with running(*replicas):
                admins = [Admin(admin_1), Admin(admin_2)]
                crowd = Crowd([web_1, web_2])
                crowd.start()
                await crowd.more(100)
                for port in ports:
                    await deployed(port, servers, admins, crowd, tmp_path)
                await asyncio.to_thread(admins[1].order, f"up-{ports[0]}", weight=5, scope="fleet")
                await crowd.more(50)
                await crowd.stop()
                assert crowd.failed == []
                assert crowd.answered > 300
                for (user, _), served in crowd.served.items():  # once for each server that went away under him
                    assert len(served) <= 1 + len(ports), (user, served)
                for replica in replicas:
                    assert replica.stop() == 0
                    assert "bug in fastroute" not in replica.output()
    finally:
        for process in servers.values():
            process.kill()
            process.popen.wait(10)
        unlink_zone(*zones)


async def deployed(
    port: int, servers: dict[int, Process], admins: list[Admin], crowd: Crowd, directory: pathlib.Path
) -> None:
    """One server of the deploy."""
    name = f"up-{port}"
    command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{admins[0].port}", "--token-file"]
    command += [str(directory / "fr0.token"), "--fleet", "drain", name, "--deadline", "0.5", "--wait"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done
    assert "maintenance" in done.stdout.splitlines()[-1], done
    assert done.stdout.splitlines()[-1].endswith("and 0 requests left"), done
    told = await asyncio.to_thread(admins[0].get, "/api/v1/fleet")
    (other,) = [one for one in told["replicas"] if not one["here"]]
    assert other["leaving"]["app"][name] == ["maintenance", 0]
    servers[port].kill()
    await asyncio.to_thread(servers[port].popen.wait, 10)
    await crowd.more(30)
    servers[port] = (await asyncio.to_thread(start_upstreams, directory, [port]))[0]
    await asyncio.to_thread(admins[1].order, name, state="ready", scope="fleet")
    await until(lambda: all(admin.server(name)["state"] == "ready" for admin in admins), f"{name} is ready on both")
    await crowd.more(30)
