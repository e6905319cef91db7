"""The catalogue of odd HTTP messages over sockets, against `fastroute serve`: whole, in halves, byte by byte.

The catalogue's own program plays client and server; rows that need what this version lacks are named here.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fleet import Process, free_ports, running, unlink_zone
from tests.support.shared import shared

LANES = 16
LATER: set[str] = set()
"""Rows that need what this version lacks: none."""

LANE = """
[listeners.l{n}]
bind = "127.0.0.1:{port}"
pool = "p{n}"
[listeners.l{n}.limits]
body_bytes = 65536
[listeners.l{n}.timeouts]
head = "2s"
body = "3s"
idle = "2s"
[pools.p{n}]
[[pools.p{n}.servers]]
name = "s"
address = "127.0.0.1:{server}"
[pools.p{n}.sticky]
on = "insert"
cookie = {{ name = "FASTROUTE" }}
[pools.p{n}.timeouts]
connect = "2s"
response = "3s"
idle = "2s"
"""


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A running proxy with one listener and one server address per lane; the arguments that name them."""
    directory = tmp_path_factory.mktemp("catalogue")
    ports = free_ports(2 * LANES)
    zone = f"t-catalogue-{ports[0]}"
    text = f'secret = "a secret for tests of at least 32 bytes"\nzone = {{ name = "{zone}", size = "4MiB" }}\n'
    for n in range(LANES):
        text += LANE.format(n=n, port=ports[n], server=ports[LANES + n])
    (directory / "fr.toml").write_text(text)
    arguments = [sys.executable, "-m", "fastroute", "serve", "-c", str(directory / "fr.toml")]
    replica = Process(arguments, directory / "fr.log")
    with running(replica):
        replica.wait_for_line("ready")
        yield [part for n in range(LANES) for part in ("--lane", f"127.0.0.1:{ports[n]}={ports[LANES + n]}")]
        assert "Traceback" not in replica.output()
        assert "Exception" not in replica.output()
    unlink_zone(zone)


def _differing(kind: str, lanes: list[str], delivery: str) -> tuple[set[str], str]:
    program, rows = shared("tools", "http_corpus.py"), shared("http", f"{kind}.jsonl")
    done = subprocess.run(
        [sys.executable, str(program), kind, str(rows), *lanes, "--delivery", delivery],
        capture_output=True, text=True, timeout=120, cwd=pathlib.Path(rows).parent, check=False,
    )  # fmt: skip
    out = done.stdout.strip().splitlines()
    assert out, done.stderr[-2000:]
    found = re.match(r"(\d+) passed, (\d+) failed, (\d+) skipped", out[-1])
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(found[1]) > 60
    return {line.split()[0] for line in out[:-1]}, done.stdout


@pytest.mark.parametrize("delivery", ["whole", "halves", "bytes"])
def test_every_odd_request_has_the_outcome_it_must_have(lanes: list[str], delivery: str) -> None:
    differing, out = _differing("requests", lanes, delivery)
    assert differing <= LATER, out


def test_every_odd_response_has_the_outcome_it_must_have(lanes: list[str]) -> None:
    differing, out = _differing("responses", lanes, "whole")
    assert not differing, out
