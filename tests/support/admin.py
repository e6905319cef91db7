"""A replica with an admin listener, and a small client of it that nobody of the product wrote (httpx)."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet import Process, start_replica

TOKEN = "operators-of-the-tests-have-this-one"
READ_TOKEN = "those-who-only-read-have-this-one"
WAIT_S = 40.0

CLIENT = httpx.Client(timeout=40, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0))
"""A new connection for each request, so that all workers are asked."""


def until(what: Callable[[], Any], why: str) -> Any:
    """Poll what other processes bring about; its first true value."""
    end = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < end, f"never: {why}"
        time.sleep(0.02)
    return found


class Admin:
    """Asks one replica's admin listener."""

    def __init__(self, port: int, token: str | None = TOKEN) -> None:
        self.base, self.token, self.port = f"http://127.0.0.1:{port}", token, port

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return CLIENT.request(method, self.base + path, json=body, headers=headers)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def order(self, server: str, **order: Any) -> Any:
        return self.post(f"/api/v1/pools/app/servers/{server}", order)

    def server(self, name: str) -> Any:
        return self.get(f"/api/v1/pools/app/servers/{name}")

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Family's sample name -> labels -> value, read by Prometheus' own parser."""
        answer = self.ask("GET", "/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                assert labels not in found.setdefault(sample.name, {}), f"{sample.name}{labels} is there twice"
                found[sample.name][labels] = sample.value
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels."""
        samples = self.metrics().get(name, {})
        return sum(value for key, value in samples.items() if set(labels.items()) <= set(key))


def start_administered(
    directory: pathlib.Path, name: str, *, port: int, admin_port: int, admin_more: str = "", **keys: Any
) -> Process:
    """start_replica() with [admin]: its two tokens are TOKEN and READ_TOKEN."""
    for key, token in (("token", TOKEN), ("read", READ_TOKEN)):
        path = directory / f"{name}.{key}"
        path.touch(0o600)
        path.write_text(token + "\n")
    section = f'[admin]\nbind = "127.0.0.1:{admin_port}"\ntoken = "file:{directory / name}.token"\n{admin_more}'
    keys["sticky_more"] = keys.get("sticky_more", "") + section
    return start_replica(directory, name, port=port, **keys)
