"""`fastroute ctl` against a real replica of two workers."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.support.admin import CLIENT, TOKEN, start_administered
from tests.support.fleet import free_ports, running, start_upstreams, unlink_zone

ZONE = f"ctltest{os.getpid()}"


class Replica:
    def __init__(self, web: int, admin: int, token_file: pathlib.Path, names: list[str]) -> None:
        self.web, self.admin, self.token_file, self.names = web, admin, token_file, names

    def ctl(self, *words: str, status: int = 0, token: bool = True) -> str:
        command = [sys.executable, "-m", "fastroute", "ctl", "--admin", f"127.0.0.1:{self.admin}"]
        command += ["--token-file", str(self.token_file)] if token else []
        found = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
        assert found.returncode == status, found
        assert TOKEN not in found.stdout + found.stderr
        if status:
            assert found.stderr.count("\n") <= 1
        return found.stdout or found.stderr

    def visit(self, user: str) -> str:
        return CLIENT.get(f"http://127.0.0.1:{self.web}/", headers={"Cookie": f"sid={user}"}).headers["x-served-by"]


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    directory = tmp_path_factory.mktemp("ctl")
    *upstreams, web, admin = free_ports(5)
    with running(*start_upstreams(directory, upstreams)):
        process = start_administered(
            directory, "fr", port=web, admin_port=admin, upstream_ports=upstreams, zone=ZONE, workers=2
        )
        with running(process):
            yield Replica(web, admin, directory / "fr.token", [f"up-{port}" for port in upstreams])
    unlink_zone(ZONE)


def test_a_drain_is_seen_in_where_requests_go(replica: Replica) -> None:
    before = {user: replica.visit(user) for user in (f"d{n}" for n in range(9))}
    out = replica.names[0]
    assert f"app/{out}: draining" in replica.ctl("drain", "app", out)
    assert {user: replica.visit(user) for user in before} == before
    assert out not in {replica.visit(f"later{n}") for n in range(9)}
    assert "draining" in replica.ctl("servers", "app")
    assert json.loads(replica.ctl("ready", out, "--json"))["state"] == "ready"
    assert out in {replica.visit(f"last{n}") for n in range(9)}


def test_a_drain_that_is_waited_for_says_what_is_left(replica: Replica) -> None:
    (user, out) = ("left", replica.visit("left"))
    said = replica.ctl("drain", out, "--wait", "--timeout", "0.1", status=1)
    assert "goes on draining" in said or "bindings" in said
    replica.ctl("maintenance", f"app/{out}")
    assert replica.visit(user) != out
    replica.ctl("ready", "app", out)


def test_a_weight_is_set_and_given_back(replica: Replica) -> None:
    out = replica.names[1]
    assert "weight 7" in replica.ctl("weight", out, "7")
    assert json.loads(replica.ctl("servers", "app", "--json"))["pools"][0]["servers"]
    assert "weight 1" in replica.ctl("weight", "app", out, "file")


def test_a_binding_is_found_explained_and_released(replica: Replica) -> None:
    served = replica.visit("known")
    assert f"bound to {served}" in replica.ctl("affinity", "find", "app", "known")
    assert served in replica.ctl("explain", "app", "known")
    assert json.loads(replica.ctl("affinity", "list", "app", "--json"))["bindings"] >= 1
    assert replica.ctl("affinity", "release", "app", "known") == "released\n"
    assert "not bound" in replica.ctl("affinity", "find", "app", "known")


def test_what_is_looked_at_is_printed_as_tables_and_as_json(replica: Replica) -> None:
    assert "round-robin" in replica.ctl("pools")
    assert json.loads(replica.ctl("pools", "--json"))["pools"][0]["name"] == "app"
    assert "REQ/S" in replica.ctl("top", "--rounds", "2", "--every", "0.1")
    lines = replica.ctl("top", "--rounds", "2", "--every", "0.1", "--json").splitlines()
    assert len(json.loads(lines[1])["rates"]) == 3
    assert json.loads(replica.ctl("statistics"))["workers_wanted"] == 2
    assert "nothing has changed" in replica.ctl("reload")


def test_top_draws_on_a_terminal_until_it_is_interrupted(replica: Replica) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 160))
    command = [
        sys.executable,
        "-m",
        "fastroute",
        "ctl",
        "--admin",
        f"127.0.0.1:{replica.admin}",
        "top",
        "--every",
        "0.1",
    ]
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    shown = b""
    try:
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as top:
            os.close(theirs)
            try:
                end_s = time.monotonic() + 60
                while shown.count(b"REQ/S") < 3 and time.monotonic() < end_s:
                    if select.select([ours], [], [], 0.1)[0]:
                        shown += os.read(ours, 65536)
                assert shown.count(b"REQ/S") >= 3, shown[-2000:]
                os.kill(top.pid, signal.SIGINT)
                with contextlib.suppress(OSError):  # its end closes the terminal
                    while piece := os.read(ours, 65536):
                        shown += piece
                assert top.wait(20) == 0
            finally:
                top.kill()
    finally:
        os.close(ours)
    assert all(name.encode() in shown for name in replica.names)
    assert shown.rstrip().endswith((b"\x1b[?1049l\x1b[?25h", b"\x1b[?25h\x1b[?1049l"))  # the terminal is as it was


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("drain", "nobody"), 1, "no pool has a server 'nobody'"),
        (("drain", "nopool", "x"), 1, "there is no pool 'nopool'; there are: app"),
        (("weight", "x"), 2, "accepted"),
        (("weight", "app", "NAME", "70000"), 1, "accepted: 0 to 65535"),
        (("--fleet", "pools"), 2, "--fleet is for changes"),
        (("--fleet", "drain", "app", "NAME"), 1, "needs a [store]"),
        (("purge", "--tag", "x"), 1, "no response is cached here"),
        (("purge",), 2, "one of URL"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    replica: Replica, words: tuple[str, ...], status: int, says: str
) -> None:
    said = replica.ctl(*(replica.names[0] if word == "NAME" else word for word in words), status=status)
    assert says in said


def test_a_change_without_a_token_is_told_how_to_send_one(replica: Replica) -> None:
    assert "--token-file" in replica.ctl("drain", "app", replica.names[0], status=1, token=False)
    told = json.loads(replica.ctl("drain", "app", replica.names[0], "--json", status=1, token=False))
    assert told["error"] == "unauthorized"


def test_where_nothing_listens_the_address_is_named(replica: Replica) -> None:
    (nobody,) = free_ports(1)
    elsewhere = Replica(0, nobody, replica.token_file, [])
    said = elsewhere.ctl("pools", status=1)
    assert f"127.0.0.1:{nobody}" in said
    assert "[admin]" in said
    not_admin = Replica(0, replica.web, replica.token_file, [])
    assert "is it the admin address" in not_admin.ctl("pools", status=1)
