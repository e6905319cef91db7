"""Long work of `fastroute cache` on a terminal: a bar that ends full; nothing of it where nobody looks."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import re
import subprocess
import sys

import pytest

COUNT = 500


def on_a_terminal(command: list[str]) -> tuple[int, str, str]:
    """(status, standard output, what the terminal got on standard error)."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # how a terminal says that nobody is left on it
            pass
        assert process.stdout is not None
        out = process.stdout.read()
        status = process.wait(60)
    os.close(ours)
    return status, out.decode(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())


@pytest.fixture
def lists(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    found = {name: tmp_path / name for name in ("load", "purge")}
    found["load"].write_text("".join(json.dumps({"key": f"k{n}", "value": n}) + "\n" for n in range(COUNT)))
    found["purge"].write_text("".join(f"k{n}\n" for n in range(COUNT)))
    return found


@pytest.mark.parametrize("what", ["load", "purge"])
def test_a_bar_shows_how_far_long_work_is_and_only_on_a_terminal(store, lists, what):
    command = [sys.executable, "-m", "fastroute", "cache", what, str(lists[what]), "--namespace", "n"]
    command += ["--memcached", store.address]
    status, out, shown = on_a_terminal(command)
    assert status == 0
    assert re.search(rf"ing ━+ {COUNT} done 0 failed [0-9]+/s", shown), shown
    assert "0 done 0 failed" in shown  # it was there from the beginning
    assert str(COUNT) in out

    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "━" not in quiet.stdout + quiet.stderr
    assert str(COUNT) in quiet.stdout + quiet.stderr

    status, out, shown = on_a_terminal([*command, "--json"])
    assert (status, json.loads(out)["done"]) == (0, COUNT)
