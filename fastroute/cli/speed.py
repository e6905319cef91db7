"""`fastroute bench`: what a selection costs on this machine, beside the packages that are installed for the same.

The yardstick is len(str) in the same loop: a ratio to it holds on other machines and under load better than
nanoseconds. Not here: the recorded results and the targets (benchmarks/).

Rules of this file: every figure is the median of rounds over the same 1,000 keys of 24 characters; rivals are measured
in the same run, between ours; the whole takes about 10 seconds, bounded by a time limit per figure.
"""

from __future__ import annotations

import array
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

import fastroute
from fastroute._core.ring_table import TableRing
from fastroute.model import Server
from fastroute.routing.policies import POLICIES
from fastroute.routing.pool import Pool

__all__ = ["Figure", "measure", "run_bench"]

KEYS = [f"session-{number:016d}" for number in range(1000)]
SERVER_COUNTS = (2, 10, 100, 1_000, 10_000)
POLICY_SERVERS = 100
BUILDS = ((10, 131_072), (100, 131_072), (1_000, 131_072), (1_000, 1 << 20))

FIGURE_S = 0.35
"""Time for one figure; at least ROUNDS_MIN rounds are made all the same."""
ROUNDS_MIN, ROUNDS_MAX = 3, 400


class Figure(NamedTuple):
    """One measured line.

    Attributes:
        group: "select", "policies", "batch", "build" or "peers".
        name: what was measured.
        ns: nanoseconds per operation, the median; None: not installed.
        ratio: to len(str); None for builds and what was not measured.
        rounds: how many the median is of.
    """

    group: str
    name: str
    ns: float | None
    ratio: float | None
    rounds: int


def measure(once: Callable[[], object], operations: int, limit_s: float = FIGURE_S) -> tuple[float, int]:
    """(median nanoseconds per operation, rounds) of a callable that does so many operations."""
    once()
    times: list[int] = []
    ends_ns = time.perf_counter_ns() + int(limit_s * 1e9)
    while len(times) < ROUNDS_MAX and (len(times) < ROUNDS_MIN or time.perf_counter_ns() < ends_ns):
        began_ns = time.perf_counter_ns()
        once()
        times.append(time.perf_counter_ns() - began_ns)
    return statistics.median(times) / operations, len(times)


def _each(call: Callable[[str], object], keys: list[str]) -> Callable[[], None]:
    def once() -> None:
        for key in keys:
            call(key)

    return once


def _names(count: int) -> list[str]:
    return [f"10.{n // 62500}.{n // 250 % 250}.{n % 250}:8080" for n in range(count)]


def _pool(count: int, policy: str) -> Pool:
    return Pool("bench", [Server(name) for name in _names(count)], policy=policy)


def figures(limit_s: float = FIGURE_S) -> Iterator[Figure]:
    """The lines, as they are measured; len(str) first."""
    len_ns, rounds = measure(_each(len, KEYS), len(KEYS), limit_s)

    def figure(group: str, name: str, once: Callable[[], object], operations: int, compared: bool = True) -> Figure:
        ns, rounds = measure(once, operations, limit_s)
        return Figure(group, name, ns, ns / len_ns if compared else None, rounds)

    yield Figure("select", "len(str), the yardstick", len_ns, 1.0, rounds)
    for count in SERVER_COUNTS:
        pool = _pool(count, "hash")
        yield figure("select", f"hash, {count} servers", _each(pool.select, KEYS), len(KEYS))
    for policy in (one for one in POLICIES if one != "hash"):
        pool = _pool(POLICY_SERVERS, policy)
        yield figure("policies", f"{policy}, {POLICY_SERVERS} servers", _each(pool.select, KEYS), len(KEYS))
    pool = _pool(POLICY_SERVERS, "hash")
    yield figure("batch", "select_many", lambda: pool.select_many(KEYS), len(KEYS))
    hashes, out = array.array("Q", map(pool.hash, KEYS)), array.array("H", bytes(2 * len(KEYS)))
    yield figure("batch", "slots_of", lambda: pool.slots_of(hashes, out), len(KEYS))
    yield from _peers(figure)
    for count, cells in BUILDS:
        names = _names(count)
        yield figure(
            "build",
            f"table of {count} servers, {cells} slots",
            lambda names=names, cells=cells: TableRing(names, [1] * len(names), cells=cells),  # type: ignore[misc]
            1,
            compared=False,
        )


def _peers(figure: Callable[..., Figure]) -> Iterator[Figure]:
    names = _names(POLICY_SERVERS)
    for name, make in (
        ("uhashring HashRing.get_node", _uhashring),
        ("uhashring HashRing.get_node, ketama", _uhashring_ketama),
        ("pymemcache RendezvousHash.get_node", _rendezvous),
        ("jump-consistent-hash with xxhash", _jump),
    ):
        label = f"{name}, {POLICY_SERVERS} servers"
        try:
            call = make(names)
        except ImportError:
            yield Figure("peers", f"{label}: not installed", None, None, 0)
            continue
        keys = KEYS[:20] if make is _rendezvous else KEYS  # it scores every server for every key
        yield figure("peers", label, _each(call, keys), len(keys))


def _uhashring(names: list[str]) -> Callable[[str], object]:
    call: Callable[[str], object] = importlib.import_module("uhashring").HashRing(nodes=names).get_node
    return call


def _uhashring_ketama(names: list[str]) -> Callable[[str], object]:
    made = importlib.import_module("uhashring").HashRing(nodes=names, hash_fn="ketama")
    call: Callable[[str], object] = made.get_node
    return call


def _rendezvous(names: list[str]) -> Callable[[str], object]:
    made = importlib.import_module("pymemcache.client.rendezvous").RendezvousHash(nodes=names)
    call: Callable[[str], object] = made.get_node
    return call


def _jump(names: list[str]) -> Callable[[str], object]:
    bucket_of = importlib.import_module("jump").hash
    hash_of = importlib.import_module("xxhash").xxh64_intdigest
    count = len(names)

    def get_node(key: str) -> object:
        return names[bucket_of(hash_of(key.encode()), count)]

    return get_node


def run_bench(as_json: bool, limit_s: float = FIGURE_S) -> None:
    """Measure and print, as JSON at the end or line by line as figures come."""
    if as_json:
        found = [figure._asdict() for figure in figures(limit_s)]
        about = {"version": fastroute.__version__, "python": platform.python_version(), "machine": platform.machine()}
        click.echo(json.dumps({**about, "keys": len(KEYS), "key_characters": len(KEYS[0]), "figures": found}))
        return
    click.echo(
        f"fastroute {fastroute.__version__}, Python {platform.python_version()}: {len(KEYS)} keys of {len(KEYS[0])}"
    )
    group = ""
    for figure in figures(limit_s):
        if figure.group != group:
            group = figure.group
            click.echo(f"\n{group:<46}{'time':>12}{'x len(str)':>12}")
        if figure.ns is None:
            click.echo(f"  {figure.name}")
            continue
        ratio = "" if figure.ratio is None else f"{figure.ratio:.1f}"
        click.echo(f"  {figure.name:<44}{_time(figure.ns):>12}{ratio:>12}")


def _time(ns: float) -> str:
    return f"{ns:.1f} ns" if ns < 10_000 else f"{ns / 1000:.1f} us" if ns < 1e6 else f"{ns / 1e6:.1f} ms"
