"""The shared cache beside other caches for Python: hits near and far, one run, one memcached, one machine.

    python -m benchmarks.compare_cache [--seconds 1.0] [--record]

With --record it writes benchmarks/results/compare_cache.json, .md and .png. Rivals are measured where they are there.
Near: a hit in the process: a dict, cachetools, theine, cashews' memory, NearCache, get_or_compute of both caches.
Far: a hit in the store with every near cache off. asyncio: aiocache over aiomcache. Threads: dogpile.cache over
pymemcache. cashews has no memcached backend: it, and the others once more, over redis where redis-server and its
client are installed. One caller after the other, and 32 tasks at once on one event loop.
Figures are processor time of this process, so that other work on the machine and the wait for memcached do not count;
loops of idle priority keep the cores awake, as other work would.
The value is a dictionary of five plain fields, encoded by each with what it comes with. The best of ROUNDS rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from fastroute._core.near_cache import NearCache
from fastroute.cache import SharedCache
from fastroute.cache.sync import SharedCache as BlockingSharedCache
from fastroute.memcache import Memcached
from fastroute.memcache.sync import Memcached as BlockingMemcached
from tests.support.memcached import Memcached as Process
from tests.support.memcached import free_port

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
ROUNDS = 60
"""Short rounds, a few milliseconds each: on a busy machine some of them are not interrupted."""
TASKS = 32
KEY = "user:0000000000000000007"
VALUE = {"id": 7, "name": "x" * 40, "roles": ["reader", "writer"], "score": 1.5, "active": True}

Row = dict[str, Any]


def compute() -> Any:
    return VALUE


def best_ns(call: Callable[[int], None], count: int, seconds: float) -> float:
    """Nanoseconds per operation of call(n), which does n of them."""
    best = float("inf")
    deadline_s = time.perf_counter() + seconds
    for _ in range(ROUNDS):
        started_s = time.process_time()
        call(count)
        best = min(best, time.process_time() - started_s)
        if time.perf_counter() > deadline_s:
            break
    return best / count * 1e9


async def best_async_ns(call: Callable[[], Awaitable[Any]], count: int, tasks: int, seconds: float) -> float:
    """The same for a coroutine function, called `count` times by each of some tasks."""

    async def repeat() -> None:
        for _ in range(count):
            await call()

    best = float("inf")
    deadline_s = time.perf_counter() + seconds
    for _ in range(ROUNDS):
        started_s = time.process_time()
        if tasks == 1:
            await repeat()
        else:
            await asyncio.gather(*(repeat() for _ in range(tasks)))
        best = min(best, time.process_time() - started_s)
        if time.perf_counter() > deadline_s:
            break
    return best / (count * tasks) * 1e9


@contextlib.contextmanager
def redis_server() -> Iterator[int | None]:
    """The port of a redis that keeps nothing on disk; None where there is none, or no client for it."""
    binary = shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/bin")
    try:
        import redis  # noqa: F401
    except ImportError:
        binary = None
    if binary is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            until_s = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until_s:
                        raise
                    time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()


def near_rows(seconds: float) -> list[Row]:
    rows = []

    def add(name: str, get: Callable[[str], Any], ours: bool = False) -> None:
        def loop(count: int) -> None:
            for _ in range(count):
                get(KEY)

        rows.append({"group": "near hit, call", "name": name, "ours": ours, "ns": best_ns(loop, 20_000, seconds)})

    near = NearCache(1 << 20)
    near.put(KEY, VALUE, 500, 3_600_000)
    add("NearCache.get", near.get, True)
    add("dict", {KEY: VALUE}.__getitem__)
    try:
        import cachetools

        lru = cachetools.LRUCache(100)
        lru[KEY] = VALUE
        add("cachetools.LRUCache", lru.__getitem__)
        ttl = cachetools.TTLCache(100, 3600)
        ttl[KEY] = VALUE
        add("cachetools.TTLCache", ttl.__getitem__)
    except ImportError:
        pass
    try:
        import theine

        cache = theine.Cache(100)
        cache.set(KEY, VALUE, datetime.timedelta(hours=1))
        add("theine.Cache", cache.get)
        cache.close()
    except ImportError:
        pass
    return rows


async def async_rows(address: str, redis_port: int | None, seconds: float) -> list[Row]:
    rows: list[Row] = []

    async def add(group: str, name: str, call: Callable[[], Awaitable[Any]], count: int, ours: bool = False) -> None:
        for tasks in (1, TASKS) if group.startswith("far") else (1,):
            title = f"{group}, {tasks} at once" if group.startswith("far") else group
            ns = await best_async_ns(call, count // tasks, tasks, seconds)
            rows.append({"group": title, "name": name, "ours": ours, "ns": ns})

    async with (
        Memcached([address], timeout="2s") as store,
        SharedCache(store, namespace="near") as near,
        SharedCache(store, namespace="far", near_bytes=0) as far,
    ):
        await near.set(KEY, VALUE, ttl=3600)
        await far.set(KEY, VALUE, ttl=3600)
        near._near.put(KEY, VALUE, 500, 3_600_000)
        await add(
            "near hit, awaited", "get_or_compute", lambda: near.get_or_compute(KEY, compute, ttl=3600), 10_000, True
        )
        await add("far hit", "get", lambda: far.get(KEY), 640, True)
        # Keys of their own: callers of one key at once would share one answer.
        names = [f"{KEY}:{number}" for number in range(TASKS)]
        for name in names:
            await far.set(name, VALUE, ttl=3600)
        turn = iter(range(1 << 60))
        await add(
            "far hit",
            "get_or_compute",
            lambda: far.get_or_compute(names[next(turn) % TASKS], compute, ttl=3600),
            640,
            True,
        )
        await add("far hit", "store alone", lambda: store.get(far._any_name(KEY).store), 640, True)
    try:
        from cashews.wrapper import Cache

        cashews = Cache()
        cashews.setup("mem://")
        await cashews.set(KEY, VALUE, expire=3600)
        await add("near hit, awaited", "cashews mem://", lambda: cashews.get(KEY), 2_000)
        await cashews.close()
    except ImportError:
        pass
    try:
        import aiocache
        from aiocache.serializers import JsonSerializer

        host, port = address.rsplit(":", 1)
        rival = aiocache.Cache(
            aiocache.Cache.MEMCACHED, endpoint=host, port=int(port), pool_size=TASKS, serializer=JsonSerializer()
        )
        await rival.set(KEY, VALUE, ttl=3600)
        await add("far hit", "aiocache get", lambda: rival.get(KEY), 320)
        await rival.close()
        if redis_port is not None:
            # One pool for all tasks, as it makes by default.
            over_redis = aiocache.Cache(
                aiocache.Cache.REDIS, endpoint="127.0.0.1", port=redis_port, serializer=JsonSerializer()
            )
            await over_redis.set(KEY, VALUE, ttl=3600)
            await add("far hit", "aiocache get, redis", lambda: over_redis.get(KEY), 320)
            await over_redis.close()
    except ImportError:
        pass
    if redis_port is not None:
        try:
            from cashews.wrapper import Cache as Cashews

            far_cashews = Cashews()
            far_cashews.setup(f"redis://127.0.0.1:{redis_port}/0", client_side=False)
            await far_cashews.set(KEY, VALUE, expire=3600)
            await add("far hit", "cashews get, redis", lambda: far_cashews.get(KEY), 320)
            await add(
                "far hit", "cashews get_or_set, redis", lambda: far_cashews.get_or_set(KEY, compute, expire=3600), 320
            )
            await far_cashews.close()
        except ImportError:
            pass
    return rows


def blocking_rows(address: str, redis_port: int | None, seconds: float) -> list[Row]:
    rows: list[Row] = []

    def add(group: str, name: str, call: Callable[[], Any], count: int, ours: bool = False) -> None:
        def loop(times: int) -> None:
            for _ in range(times):
                call()

        rows.append({"group": group, "name": name, "ours": ours, "ns": best_ns(loop, count, seconds)})

    with (
        BlockingMemcached([address], timeout="2s") as store,
        BlockingSharedCache(store, namespace="near-blocking") as near,
        BlockingSharedCache(store, namespace="far-blocking", near_bytes=0) as far,
    ):
        far.set(KEY, VALUE, ttl=3600)
        near._near.put(KEY, VALUE, 500, 3_600_000)
        add(
            "near hit, call",
            "blocking get_or_compute",
            lambda: near.get_or_compute(KEY, compute, ttl=3600),
            50_000,
            True,
        )
        add("far hit, blocking", "get_or_compute", lambda: far.get_or_compute(KEY, compute, ttl=3600), 200, True)
        add("far hit, blocking", "store alone", lambda: store.get(far._any_name(KEY).store), 200, True)
    try:
        import dogpile.cache

        region = dogpile.cache.make_region().configure(
            "dogpile.cache.pymemcache", expiration_time=3600, arguments={"url": [address]}
        )
        key = "dogpile:" + KEY
        region.get_or_create(key, compute)
        add("far hit, blocking", "dogpile.cache get_or_create", lambda: region.get_or_create(key, compute), 200)
        if redis_port is not None:
            over_redis = dogpile.cache.make_region().configure(
                "dogpile.cache.redis",
                expiration_time=3600,
                arguments={"host": "127.0.0.1", "port": redis_port, "redis_expiration_time": 7200},
            )
            over_redis.get_or_create(key, compute)
            name = "dogpile.cache get_or_create, redis"
            add("far hit, blocking", name, lambda: over_redis.get_or_create(key, compute), 200)
    except ImportError:
        pass
    return rows


def write(rows: list[Row], record: bool) -> None:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    lines = [
        "# Caches beside each other",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        "uvloop. The caller's processor time, best of rounds. By `python -m benchmarks.compare_cache`.",
    ]
    for group, members in groups.items():
        base = (
            members[0]["ns"]
            if not any(row["name"] == "get_or_compute" for row in members)
            else next(row["ns"] for row in members if row["name"] == "get_or_compute")
        )
        lines += ["", f"## {group}", "| what | ns per operation | ratio |", "|---|---:|---:|"]
        lines += [f"| {row['name']} | {row['ns']:,.0f} | {row['ns'] / base:,.2f} |" for row in members]
    text = "\n".join(lines) + "\n"
    print(text)
    if not record:
        return
    (RESULTS / "compare_cache.md").write_text(text)
    (RESULTS / "compare_cache.json").write_text(json.dumps(rows, indent=1) + "\n")
    from benchmarks.run import chart

    chart(rows, RESULTS / "compare_cache.png")


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """No core falls asleep meanwhile: waking a virtual one costs tens of microseconds, charged to whoever asks next."""
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}]);\nwhile True: pass"],
            preexec_fn=lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
        )
        for core in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for one in loops:
            one.kill()
            one.wait()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="limit of one figure's rounds")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/compare_cache.*")
    options = parser.parse_args()
    rows = near_rows(options.seconds)
    with awake(), Process() as process, redis_server() as redis_port:
        rows += uvloop.run(async_rows(process.address, redis_port, options.seconds))
        rows += blocking_rows(process.address, redis_port, options.seconds)
    write(rows, options.record)


if __name__ == "__main__":
    main()
