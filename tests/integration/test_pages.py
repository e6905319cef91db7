"""The pages for operators are true: their files are used and their commands are run, in order, as they stand.

<!-- file: NAME -->     the next block is written into a file
<!-- run: TEXT -->      the next block is run by bash; TEXT must be in what it prints
<!-- background -->     the next block is started and left running; with ": LINE" until it prints this line
<!-- setup -->          two servers, a replica and its token are there from here on

Only the port numbers are exchanged for free ones.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.support.admin import until
from tests.support.fleet import Process, free_ports, unlink_zone
from tests.support.shared import ROOT

PAGES = ["getting-started.md", "deploying.md", "draining.md", "metrics.md", "when-things-fail.md"]
STEP = re.compile(r"<!-- (file|run|background|setup)(?:: ([^\n]*?))? -->\n(?:\n*```\w+\n(.*?)```)?", re.S)
PORTS = ["8080", "8081", "9900", "9901", "9001", "9002", "11211"]

SETUP = """secret = "env:FASTROUTE_SECRET"
[listeners.web]
bind = "127.0.0.1:8080"
pool = "app"
[pools.app]
policy = "round-robin"
servers = [{ name = "web-1", address = "127.0.0.1:9001" }, { name = "web-2", address = "127.0.0.1:9002" }]
[pools.app.sticky]
on = "insert"
[admin]
bind = "127.0.0.1:9900"
token = "env:FASTROUTE_TOKEN"
"""


class Shell:
    """Runs a page's steps in one directory, with one environment."""

    def __init__(self, directory: pathlib.Path, page: str) -> None:
        self.directory, self.zone = directory, f"page{os.getpid()}-{page.partition('.')[0]}"
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.processes: list[Process] = []
        shutil.copytree(ROOT / "examples" / "deploy", directory / "examples" / "deploy")
        (directory / "bin").mkdir()
        for name, command in (("fastroute", f"{sys.executable} -m fastroute"), ("python", sys.executable)):
            program = directory / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            program.chmod(0o755)
        self.environment = {
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}:/usr/sbin:/usr/local/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
            "FASTROUTE_ADMIN": f"127.0.0.1:{self.ports['9900']}",
            "NO_PROXY": "*",
        }

    def text(self, text: str) -> str:
        return re.sub(r"(?<=[:=\s])(" + "|".join(PORTS) + r")\b", lambda found: self.ports[found[1]], text)

    def file(self, name: str, text: str) -> None:
        zone = f'zone = {{ name = "{self.zone}", size = "8MiB" }}\n'
        (self.directory / name).write_text(zone + self.text(text))

    def run(self, block: str) -> str:
        script = f"set -euo pipefail\n{self.text(block)}\nenv -0 > .environment"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        pairs = (self.directory / ".environment").read_text().split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        return done.stdout + done.stderr

    def background(self, block: str, line: str | None) -> Process:
        log = self.directory / f"background-{len(self.processes)}.log"
        process = Process(["bash", "-c", f"cd {self.directory}; exec env {self.text(block)}"], log, self.environment)
        self.processes.append(process)
        if line:
            process.wait_for_line(line)
        elif port := re.search(r"(?:PORT=|-p )(\d+)", self.text(block)):
            until(lambda: _answers(int(port[1])), f"somebody listens on {port[1]}")
        assert process.popen.poll() is None, process.output()
        return process

    def setup(self) -> None:
        self.environment |= {"FASTROUTE_SECRET": "s" * 16 + "0123456789abcdef" * 2, "FASTROUTE_TOKEN": "t" * 40}
        token = self.directory / "token"
        token.touch(0o600)
        token.write_text("t" * 40)
        for number in (1, 2):
            server = self.background(f"NAME=web-{number} PORT=900{number} python examples/deploy/server.py", None)
            (self.directory / f"web-{number}.pid").write_text(str(server.pid))
        self.file("fastroute.toml", SETUP)
        self.background("fastroute serve -c fastroute.toml", "ready")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.popen.wait(10)
        unlink_zone(self.zone)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says(page: str, tmp_path: pathlib.Path) -> None:
    if shutil.which("curl") is None or shutil.which("openssl") is None:
        pytest.skip("the pages use curl and openssl, which are not here")
    steps = STEP.findall((ROOT / "docs" / page).read_text())
    assert sum(kind == "run" for kind, *_ in steps) >= 3
    shell = Shell(tmp_path, page)
    try:
        for kind, about, block in steps:
            if kind == "setup":
                shell.setup()
            elif kind == "file":
                shell.file(about, block)
            elif kind == "background":
                shell.background(block.strip(), about or None)
            else:
                assert about in shell.run(block), (block, about)
    finally:
        shell.close()


@pytest.mark.parametrize("page", [*PAGES, "admin.md"])
def test_what_a_page_links_to_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "docs" / page).read_text()):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_each_shell(shell: str, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "fastroute"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastroute "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "fastroute"],
        env={**environment, "_FASTROUTE_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "_FASTROUTE_COMPLETE" in done.stdout, done
    words = {**environment, "_FASTROUTE_COMPLETE": "bash_complete", "COMP_WORDS": "fastroute ctl dr", "COMP_CWORD": "2"}
    began = time.monotonic()
    done = subprocess.run([str(program)], env=words, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "plain,drain", done
    assert time.monotonic() - began < 20
