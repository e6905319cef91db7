"""README and the examples are true: what they show runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.fleet import Process, free_ports, running, start_upstreams
from tests.support.memcached import Memcached
from tests.support.shared import ROOT

BLOCK = re.compile(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", re.S)


def blocks(kind: str) -> list[str]:
    return [body for found, body in BLOCK.findall((ROOT / "README.md").read_text()) if found == kind]


@pytest.mark.parametrize("number", range(2))
def test_python_block_of_the_readme_runs(number, tmp_path):
    program = tmp_path / "block.py"
    program.write_text(blocks("python")[number])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", str(program)], check=True, timeout=60, cwd=tmp_path, env=env)


def test_configuration_block_of_the_readme_passes_check(tmp_path):
    (config,) = blocks("config")
    (tmp_path / "fastroute.toml").write_text(config)
    env = {**os.environ, "FASTROUTE_SECRET": "0123456789abcdef0123456789abcdefXY", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fastroute", "check", "-c", "fastroute.toml"]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path, env=env)


def test_every_file_that_the_readme_links_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_library_example_runs():
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/library.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "and no way back" in done.stdout


@pytest.mark.parametrize("stored", [True, False], ids=["with-store", "zone-alone"])
def test_embedding_example_is_sticky_and_survives_a_dead_server(tmp_path, stored):
    import http.client

    ports = free_ports(3)
    with Memcached() as store, running(*(upstreams := start_upstreams(tmp_path, ports))):
        addresses = [f"127.0.0.1:{port}" for port in ports]
        env = {"PYTHONPATH": str(ROOT), **({"FASTROUTE_MEMCACHED": store.address} if stored else {})}
        program = [sys.executable, str(ROOT / "examples" / "embed_proxy.py"), "127.0.0.1:0", *addresses]
        proxy = Process(program, tmp_path / "embed.log", env)
        with running(proxy):
            while "ready on " not in proxy.output():
                assert proxy.popen.poll() is None, proxy.output()
            port = int(proxy.output().rsplit(":", 1)[1])

            def ask(user: str) -> str:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
                connection.request("GET", "/", headers={"Cookie": f"sid={user}"})
                answer = connection.getresponse()
                answer.read()
                connection.close()
                return answer.headers["X-Served-By"]

            first = {f"user-{n}": ask(f"user-{n}") for n in range(12)}
            assert set(first.values()) == {f"up-{port}" for port in ports}
            assert {user: ask(user) for user in first} == first
            upstreams[0].kill()
            upstreams[0].popen.wait()
            after = {user: ask(user) for user in first}
            for user, server in first.items():
                assert (after[user] == server) == (server != f"up-{ports[0]}")
            assert {user: ask(user) for user in first} == after
