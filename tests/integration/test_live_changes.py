"""Servers that join and leave while a replica runs, drains that end, bindings that are released: two real workers."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.admin import CLIENT, Admin, start_administered, until
from tests.support.fleet import Process, free_ports, running, start_upstreams, unlink_zone

ZONE = f"livetest{os.getpid()}"


class Site:
    def __init__(self, directory: pathlib.Path, web: int, admin: int, ports: list[int], process: Process) -> None:
        self.directory, self.web, self.admin, self.process = directory, web, Admin(admin), process
        self.names, self.ports = [f"up-{port}" for port in ports], ports

    def visit(self, *users: str) -> list[str]:
        return [
            CLIENT.get(f"http://127.0.0.1:{self.web}/", headers={"Cookie": f"sid={user}"}).headers["x-served-by"]
            for user in users
        ]

    def listed(self) -> list[str]:
        return [one["name"] for one in self.admin.get("/api/v1/pools/app")["servers"]]

    def add(self, at: int, **more: object) -> dict:
        body = {"name": self.names[at], "address": f"127.0.0.1:{self.ports[at]}", **more}
        return self.admin.post("/api/v1/pools/app/servers", body)

    def remove(self, at: int) -> dict:
        answer = self.admin.ask("DELETE", f"/api/v1/pools/app/servers/{self.names[at]}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ctl(self, *words: str) -> str:
        command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{self.admin.port}"]
        command += ["--token-file", str(self.directory / "fr.token"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("live")
    *upstreams, web, admin = free_ports(6)
    with running(*start_upstreams(directory, upstreams)):
        process = start_administered(
            directory, "fr", port=web, admin_port=admin, upstream_ports=upstreams[:3], zone=ZONE, workers=2
        )
        with running(process):
            yield Site(directory, web, admin, upstreams, process)
    unlink_zone(ZONE)


@pytest.fixture(autouse=True)
def the_file_holds_again(site: Site) -> Iterator[None]:
    yield
    for at, name in enumerate(site.names):
        listed = site.listed()
        if at == 3 and name in listed:
            site.remove(at)
        elif at < 3 and name not in listed:
            site.add(at)
        if at < 3:
            site.admin.order(name, state="ready", weight=None)


def test_a_server_that_is_added_gets_users_and_moves_nobody(site: Site) -> None:
    users = [f"add-{n}" for n in range(12)]
    before = site.visit(*users)
    told = site.add(3, weight=3)
    assert (told["state"], told["weight"], told["workers_following"]) == ("ready", 3, 2)
    assert site.visit(*users) == before
    fresh = site.visit(*(f"add-new-{n}" for n in range(12)))
    assert fresh.count(site.names[3]) >= 4
    assert site.admin.server(site.names[3])["requests_total"] >= 4
    assert site.admin.total("fastroute_requests_total", server=site.names[3], code="2xx") >= 4


def test_a_server_that_is_removed_gets_nothing_and_its_users_move_once(site: Site) -> None:
    users = [f"remove-{n}" for n in range(12)]
    before = site.visit(*users)
    out = site.names[1]
    assert site.remove(1)["workers_following"] == 2
    assert out not in site.listed()
    after = site.visit(*users)
    assert out in before
    assert out not in after
    assert [b for a, b in zip(before, after, strict=True) if a != out] == [a for a in before if a != out]
    site.add(1)
    assert site.visit(*users) == after, "nobody is yanked back"
    assert out in site.visit(*(f"removed-new-{n}" for n in range(9)))


def test_what_joined_can_be_drained_weighed_and_explained(site: Site) -> None:
    site.add(3)
    name = site.names[3]
    assert site.admin.order(name, weight=9)["weight"] == 9
    assert name in site.visit(*(f"weigh-{n}" for n in range(8)))
    assert site.admin.order(name, state="draining")["states"] == {"draining": 2}
    assert name not in site.visit(*(f"drain-{n}" for n in range(12)))
    candidates = site.admin.get("/api/v1/explain/app?key=somebody")["candidates"]
    assert name in {one["name"] for one in candidates}


def test_workers_that_start_later_and_reloads_keep_what_was_changed(site: Site) -> None:
    site.add(3)
    site.remove(2)
    expected = [*site.names[:2], site.names[3]]
    pids = {row["pid"] for row in site.admin.get("/api/v1/statistics")["workers"]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: (
            len(rows := site.admin.get("/api/v1/statistics")["workers"]) == 2
            and all(row["accepting"] for row in rows)
            and not pids & {row["pid"] for row in rows}
        ),
        "two new workers",
    )
    assert site.names[2] not in site.visit(*(f"later-{n}" for n in range(9)))
    config = site.directory / "fr.toml"
    config.write_text(config.read_text().replace('ttl = "30m"', 'ttl = "29m"'))
    assert "2 workers run" in site.admin.post("/api/v1/reload")["detail"]
    assert site.listed() == sorted(expected)
    served = site.visit(*(f"reloaded-{n}" for n in range(9)))
    assert set(served) == set(expected)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"name": "SERVER", "address": "127.0.0.1:1"}, "already"),
        ({"name": "itself", "address": "127.0.0.1:WEB"}, "is listener 'web' itself"),
        ({"name": "x y", "address": "127.0.0.1:1"}, "accepted"),
        ({"address": "127.0.0.1:1", "weight": 70000}, "accepted"),
    ],
)
def test_a_server_that_cannot_be_is_refused_and_nothing_changes(site: Site, body: dict, says: str) -> None:
    filled = {
        key: value.replace("SERVER", site.names[0]).replace("WEB", str(site.web)) if isinstance(value, str) else value
        for key, value in body.items()
    }
    answer = site.admin.ask("POST", "/api/v1/pools/app/servers", filled)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert site.listed() == sorted(site.names[:3])


def test_a_drain_with_a_deadline_ends_in_maintenance(site: Site) -> None:
    (user, out) = ("deadline", site.visit("deadline")[0])
    told = site.admin.order(out, state="draining", deadline="1500ms")
    deadline_s = told["order"]["deadline_at"]
    assert deadline_s > told["order"]["given_at"]
    assert site.visit(user) == [out] or time.time() > deadline_s, "it is bound there until the deadline"
    until(lambda: set(site.admin.server(out)["states"]) == {"maintenance"}, "the drain ends in all workers")
    assert site.visit(user) != [out]


def test_a_drain_ends_when_nothing_is_left(site: Site) -> None:
    site.add(3)
    name = site.names[3]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        said = pool.submit(site.ctl, "drain", name, "--deadline", "10m", "--wait")
        until(lambda: site.admin.server(name)["state"] == "draining", "the drain has begun")
        assert "done" in site.ctl("affinity", "release", "app", "--server", name)
        assert f"app/{name}: maintenance, 0 bindings and 0 requests left" in said.result()


def test_all_bindings_of_a_server_are_released_with_progress(site: Site) -> None:
    users = [f"release-{n}" for n in range(30)]
    before = site.visit(*users)
    out = site.names[0]
    site.admin.order(out, state="draining")
    said = site.ctl("affinity", "release", "app", "--server", out)
    assert "done" in said
    until(lambda: site.admin.server(out)["bindings"] == 0, "none is left")
    after = site.visit(*users)
    assert out in before
    assert out not in after
    assert [b for a, b in zip(before, after, strict=True) if a != out] == [a for a in before if a != out]
    job = site.admin.get("/api/v1/affinity/app/release")["releases"][0]
    assert job["state"] == "done"
    assert job["moved"] >= before.count(out)


def test_the_command_line_adds_lists_and_removes(site: Site) -> None:
    name = site.names[3]
    assert f"app/{name}: ready" in site.ctl("servers", "add", "app", f"127.0.0.1:{site.ports[3]}", "--name", name)
    assert name in site.ctl("servers", "app")
    assert name in site.ctl("servers")
    assert site.ctl("servers", "remove", name) == f"app/{name}: removed\n"
    assert name not in site.ctl("servers", "--json")
