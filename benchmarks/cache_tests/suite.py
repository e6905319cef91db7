"""The public cache-tests suite (https://cache-tests.fyi, BSD licence): where it comes from, and running it.

It is installed when it is needed and is no part of this repository: its release on npm, or a checkout of its own that
the caller names (`--suite`), which may be newer than the release.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
RELEASE = "0.4.5"
"""Of the package http-cache-tests: 157 required, 86 optimal and 86 check tests for proxies."""

RUN_S_MAX = 300.0
"""The whole run takes about 25 s: batches of 100 tests at once, most with a pause of 3 s."""


def install(directory: pathlib.Path) -> pathlib.Path:
    """The suite's directory, installed from npm unless it is there already.

    Raises:
        RuntimeError: node or npm is missing, or the registry cannot be reached.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise RuntimeError(
                f"{program} is not installed: the cache-tests suite needs it (apt-get install nodejs npm)"
            )
    found = directory / "node_modules" / "http-cache-tests"
    if (found / "package.json").exists() and (directory / "node_modules" / "node-fetch").exists():
        return found
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text('{"private": true}\n')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--silent"]
    done = subprocess.run(
        [*command, f"http-cache-tests@{RELEASE}", "node-fetch@2"], cwd=directory, capture_output=True, text=True
    )
    if done.returncode or not found.exists():
        raise RuntimeError(f"npm could not install http-cache-tests@{RELEASE}: {(done.stderr or done.stdout)[-2000:]}")
    return found


class Origin:
    """The suite's server; `port` on 127.0.0.1."""

    def __init__(self, suite: pathlib.Path) -> None:
        self._command = ["node", "--no-warnings", str(HERE / "server.mjs"), str(suite)]
        self.port = 0

    def __enter__(self) -> Origin:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        word, _, number = self._process.stdout.readline().partition(" ")
        if word != "port":
            self.__exit__(None, None, None)
            raise RuntimeError(f"the suite's server did not start: {word}")
        self.port = int(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def run(suite: pathlib.Path, ports: Sequence[int], only: str | None = None) -> list[dict[str, Any]] | str:
    """One row per test (suite, id, kind, verdict, detail); with `only` what the suite prints about that test.

    verdict: pass, fail, setup (what the test needs did not work), dependency (a test that it builds on did not pass).
    """
    bases = [f"http://127.0.0.1:{port}" for port in ports]
    command = ["node", "--no-warnings", str(HERE / "client.mjs"), str(suite)]
    done = subprocess.run(
        [*command, *(("--id", only) if only else ()), *bases],
        capture_output=True, text=True, timeout=RUN_S_MAX, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the suite's client failed: {(done.stderr or done.stdout)[-3000:]}")
    if only:
        return done.stdout
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows
