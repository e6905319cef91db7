"""examples/cached_app.py, as a reader would try it: two processes, one memcached."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.memcached import Memcached as Process

EXAMPLE = Path(__file__).parents[2] / "examples" / "cached_app.py"


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.load(response)


@pytest.fixture
def store() -> Iterator[Process]:
    with Process() as process:
        yield process


@pytest.fixture
def applications(store: Process) -> Iterator[list[str]]:
    """URLs of two processes of the example."""
    command = [sys.executable, str(EXAMPLE), "--memcached", store.address, "--port", "0", "--cost", "0.2"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the fastroute that this test imports
    running = [subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        yield [application.stdout.readline().strip().removesuffix("/report/7") for application in running]  # type: ignore[union-attr]
    finally:
        for application in running:
            application.kill()
            application.communicate()


def test_one_process_computes_a_report_for_both(applications: list[str]) -> None:
    reports = [fetch(f"{url}/report/7") for url in (*applications, *applications)]
    assert reports[0]["report"] == 7
    assert reports == [reports[0]] * 4
    counts = [fetch(f"{url}/statistics") for url in applications]
    assert sum(count["computations"] for count in counts) == 1
    # The other one takes it from the store; near values may be dropped once more while the push channel opens.
    far, near = (sum(numbers) for numbers in zip(*((c["hits_far"], c["near"]["hits"]) for c in counts), strict=True))
    assert far >= 1
    assert far + near == 3


def test_the_application_goes_on_without_its_store(store: Process, applications: list[str]) -> None:
    fetch(f"{applications[0]}/report/1")
    store.kill()
    assert [fetch(f"{url}/report/{number}")["report"] for url in applications for number in (1, 2)] == [1, 2, 1, 2]


def test_what_sharing_gives_and_costs_is_told(store: Process) -> None:
    command = [sys.executable, str(EXAMPLE.with_name("cache_costs.py")), "--memcached", store.address]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}
    assert int(rows["report"][0]) >= 1800
    assert float(rows["report"][4]) > 0
    assert float(rows["sum"][4]) < 0
    assert int(rows["stranger"][0]) < 100
