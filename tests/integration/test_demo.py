"""`fastroute demo` as a program: the main job on this machine, with memcached and without it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.fleet import Process, free_ports, unlink_zone

WAIT_S = 30.0


def demo(tmp_path: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastroute", "demo", *arguments]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)


def left_behind(tmp_path: pathlib.Path) -> list[str]:
    """What a demo left: files of its own, and processes that inherited its environment."""
    found = [str(path) for path in tmp_path.iterdir() if path.name.startswith("fastroute-demo-")]
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"TMPDIR={tmp_path}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.mark.parametrize("arguments", [(), ("--no-memcached",)], ids=["memcached", "one zone"])
def test_demo_splits_no_user_and_fails_no_request(tmp_path, arguments):
    result = demo(tmp_path, "--requests", "1500", "--users", "200", "--ports", "0,0", "--json", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    wanted = {"requests": 1500, "users": 200, "splits": 0, "failed": 0, "moved": 0}
    assert {key: found[key] for key in wanted} == wanted
    assert len(found["servers"]) == 3
    assert all(server["users"] > 0 for server in found["servers"].values())
    with_memcached = bool(shutil.which("memcached")) and not arguments
    assert found["store"].startswith("memcached 1." if with_memcached else "none: both replicas share one zone")
    assert left_behind(tmp_path) == []


def test_summary_for_people_names_the_urls_and_the_result(tmp_path):
    result = demo(tmp_path, "--requests", "100", "--users", "10", "--ports", "0,0")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "try: curl -b jar -c jar http://127.0.0.1:" in result.stdout
    assert result.stdout.endswith("splits 0, failed 0, moved 0\n")


def test_taken_port_is_one_line_with_the_way_out(tmp_path):
    port, other = free_ports(2)
    with socket.create_server(("127.0.0.1", port)):
        result = demo(tmp_path, "--requests", "10", "--ports", f"{other},{port}")
    assert result.returncode == 1
    assert result.stderr == (
        f"fastroute: port {port} on 127.0.0.1 is taken by another program; choose others with --ports, such as "
        "fastroute demo --ports 8090,8091, or let it find free ones with --ports 0,0\n"
    )
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything_with_a_summary(tmp_path, number):
    process = start(tmp_path)
    os.kill(process.pid, number)
    assert process.popen.wait(WAIT_S) == 0
    assert "splits 0, failed 0, moved 0" in process.output().splitlines()
    assert left_behind(tmp_path) == []


def test_children_die_with_a_killed_demo(tmp_path):
    process = start(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.popen.wait(WAIT_S)
    end = time.monotonic() + WAIT_S
    while any(not line.startswith("/") for line in left_behind(tmp_path)):
        assert time.monotonic() < end, left_behind(tmp_path)
        time.sleep(0.02)
    unlink_zone(*(f"demo-{process.pid}-{number}" for number in range(3)))  # nobody was left to do it


def start(tmp_path: pathlib.Path) -> Process:
    """A demo without end that has made its first requests."""
    command = [sys.executable, "-m", "fastroute", "demo", "--ports", "0,0", "--users", "20"]
    process = Process(command, tmp_path / "log", {"TMPDIR": str(tmp_path)})
    end = time.monotonic() + WAIT_S
    while "requests=" not in process.output():
        assert process.popen.poll() is None, process.output()
        assert time.monotonic() < end, process.output()
        time.sleep(0.02)
    return process
