"""Numbers of the agreement: how many bindings a zone holds, how a lost store is filled again, how fast a move is known.

    python -m benchmarks.study_agreement capacity [--size 64MiB]
    python -m benchmarks.study_agreement republish [--bindings 1000000]
    python -m benchmarks.study_agreement moves [--kills 5] [--users 240]

capacity: made-up bindings are put into a private zone; when the first live one is lost is found in steps of 1,000.
republish: a zone full of bindings, memcached killed and an empty one started; how long until all are there again, the
most in any second, and meanwhile, in the same event loop, what new keys (one round trip) and near hits take.
moves: real balancers, each on its own zone, that all know all users; kill -9 of the server with most users, at once one
request of each of its users through every balancer. A move is known when the last of them has named the new server.

What was recorded stands in docs/design/agreement.md.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import pathlib
import statistics
import tempfile
import time

from fastroute import Affinity, Memcached, Pool, Router, Server, Zone
from fastroute.affinity.base import identity_of
from tests.support.faults import Rig
from tests.support.fleet import User
from tests.support.memcached import Memcached as MemcachedServer

STEP = 1_000
SERVERS = 256
"""Slots of the made-up bindings (AffinityTable.fill_for_test)."""


def p(values: list[float], share: float) -> float:
    """That quantile, in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000 if values else float("nan")


def capacity(options: argparse.Namespace) -> None:
    """Fill a zone until a live binding is lost."""
    with Zone(None, options.size) as zone:
        table = Affinity(zone=zone).table
        now = 1_000_000
        full, filled = table.capacity, 0
        while not zone.statistics().lost and not zone.statistics().evictions:
            table.fill_for_test(filled, STEP, now, now + 1000)
            filled += STEP
            if filled == full // STEP * STEP:
                found = table.probe_for_test(0, filled, now)
                print(
                    f"{filled} of a stated capacity of {full}: {found} found, {zone.size_bytes / full:.1f} bytes each"
                )
        print(f"the first live binding was lost between {filled - STEP} and {filled}")


async def republish(options: argparse.Namespace) -> None:
    """Kill the store of a machine with many bindings, and start an empty one."""
    pool = Pool("app", [Server(f"10.0.{n // 250}.{n % 250}:80", name=f"S{n}") for n in range(SERVERS)])
    with MemcachedServer("-m", "512") as server, Zone(None, options.size, identity_of(None, "fr")) as zone:
        store = Memcached([server.address])
        async with store, Affinity(store, zone=zone) as affinity:
            router = Router(pool, affinity=affinity, key="cookie:sid")
            view = affinity.views[0]
            assert affinity._push is not None
            ticks = affinity._push.board.now_tick
            assert all(view.slot_of_zone(slot) >= 0 for slot in range(SERVERS))
            made = affinity.table.fill_for_test(0, options.bindings, ticks, ticks + 25_000)
            assert made == (options.bindings, 0, 0), made
            while affinity.statistics.near_mode != "push":  # noqa: ASYNC110  nobody announces it
                await asyncio.sleep(0.01)
            counts = affinity.statistics.push
            assert counts is not None
            known = "a user whom the zone knows"
            await router.route(known)
            fresh_s: dict[str, list[float]] = collections.defaultdict(list)
            near_s: dict[str, list[float]] = collections.defaultdict(list)
            lag_s: dict[str, list[float]] = collections.defaultdict(list)
            phase, number = "before", 0

            async def requests() -> None:
                nonlocal number
                while True:
                    began_s = time.perf_counter()
                    router.route_nowait(known)
                    near_s[phase].append(time.perf_counter() - began_s)
                    began_s = time.perf_counter()
                    number += 1
                    await router.route(f"new-{number}")
                    fresh_s[phase].append(time.perf_counter() - began_s)
                    began_s = time.perf_counter()
                    await asyncio.sleep(0.002)
                    lag_s[phase].append(time.perf_counter() - began_s - 0.002)

            asking = asyncio.create_task(requests())
            await asyncio.sleep(options.before)
            phase = "away"
            server.kill()
            server.start()
            began_s = time.monotonic()
            while not counts.republished:  # noqa: ASYNC110  nobody announces it
                await asyncio.sleep(0.001)
            first_s, phase = time.monotonic() - began_s, "during"
            done, most, at_s = counts.republished, 0, time.monotonic()
            while counts.republished + counts.republish_adopted + counts.republish_failed < options.bindings:
                await asyncio.sleep(1.0)
                now_s = time.monotonic()
                most = max(most, round((counts.republished - done) / (now_s - at_s)))
                done, at_s = counts.republished, now_s
            lasted_s = time.monotonic() - began_s
            phase = "after"
            await asyncio.sleep(options.before)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            items = int(server.statistics()["curr_items"])
            print(f"{counts.republished} written again, {counts.republish_adopted} adopted, {lasted_s:.0f} s,")
            print(
                f"{counts.republish_failed} failed; the first after {first_s * 1000:.0f} ms; at most {most} in a second"
            )
            print(f"items in the store: {items}")
            print("| | requests | new key, p50 / p99 ms | near hit, p99 us | event loop late, p99 ms |")
            print("|---|---|---|---|---|")
            for what in ("before", "during", "after"):
                new, near, lag = fresh_s[what], near_s[what], lag_s[what]
                print(
                    f"| {what} | {len(new)} | {p(new, 0.5):.2f} / {p(new, 0.99):.2f} | {p(near, 0.99) * 1000:.1f} |"
                    f" {p(lag, 0.99):.1f} |"
                )


async def agreed(users: list[User], ports: list[int]) -> list[tuple[float, int]]:
    """For each user: seconds from the first answer of its new server to the last balancer's, and its moves."""
    began_s = time.monotonic()

    async def one(user: User) -> tuple[float, int]:
        seen: list[tuple[float, str | None]] = []

        async def through(port: int) -> None:
            while True:
                asked_s = time.monotonic()
                server = await user.get(port)
                seen.append((time.monotonic(), server))
                if server is not None and server == next((s for _, s in sorted(seen) if s is not None), None):
                    return
                if asked_s - began_s > 5:
                    return

        await asyncio.gather(*(through(port) for port in ports))
        answers = [(at_s, server) for at_s, server in sorted(seen) if server is not None]
        return answers[-1][0] - answers[0][0], len({server for _, server in answers})

    return list(await asyncio.gather(*(one(user) for user in users)))


async def moves_of(rig: Rig, kills: int, count: int, at_once: int) -> list[tuple[float, int]]:
    """Kill servers, one after the other."""
    users = [User(rig.ports, f"sid=moves-{n}") for n in range(count)]
    found: list[tuple[float, int]] = []
    for _ in range(kills):
        before: dict[int, str] = {}
        for index, user in enumerate(users):
            for port in rig.ports:  # known to all, and twice: not of the kind that is forgotten in a minute
                for _ in range(2):
                    server = await user.get(port)
            assert server is not None
            before[index] = server
        name = collections.Counter(before.values()).most_common(1)[0][0]
        struck = [index for index, server in before.items() if server == name]
        rig.kill_server(name)
        for start in range(0, len(struck), at_once):
            chosen = struck[start : start + at_once]
            found += await agreed([users[index] for index in chosen], rig.ports)
        after = {index: [await users[index].get(port) for port in rig.ports] for index in before}
        assert all(len(set(names)) == 1 for names in after.values()), "split in the end"
        kept = sum(after[index][0] == server for index, server in before.items() if server != name)
        assert kept == len(before) - len(struck), "a user of a living server moved"
        rig.return_server(name)
    for user in users:
        await user.close()
    return found


MOVES_HEAD = (
    "| balancers | kills | users moved | changes of a user, most | all agree, ms after: median / p99 / most |\n"
    "|---|---|---|---|---|"
)


def moves_row(replicas: int, kills: int, users: int, at_once: int = 8) -> tuple[dict[str, float], str]:
    """What so many balancers came to: as figures, and as a line of the table."""
    with tempfile.TemporaryDirectory() as directory, Rig(pathlib.Path(directory), replicas=replicas) as rig:
        found = asyncio.run(moves_of(rig, kills, users, at_once))
    agree_s = [seconds for seconds, _ in found]
    figures = {
        "kills": kills,
        "moved": len(found),
        "changes_max": max(count for _, count in found),
        "median_ms": statistics.median(agree_s) * 1000,
        "p99_ms": p(agree_s, 0.99),
        "max_ms": max(agree_s) * 1000,
    }
    times = f"{figures['median_ms']:.1f} / {figures['p99_ms']:.1f} / {figures['max_ms']:.1f}"
    return figures, f"| {replicas} | {kills} | {len(found)} | {figures['changes_max']} | {times} |"


def moves(options: argparse.Namespace) -> None:
    """The table of moves, for two to four balancers."""
    print(MOVES_HEAD)
    for replicas in options.replicas:
        print(moves_row(replicas, options.kills, options.users, options.at_once)[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("capacity", "republish", "moves"))
    parser.add_argument("--size", default="64MiB", help="of the zone")
    parser.add_argument("--bindings", type=int, default=1_000_000)
    parser.add_argument("--before", type=float, default=5.0, help="seconds of requests before and after")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--users", type=int, default=240)
    parser.add_argument("--at-once", type=int, default=8, help="users whose requests are under way together")
    parser.add_argument("--replicas", type=int, nargs="*", default=[2, 3, 4])
    options = parser.parse_args()
    if options.what == "republish":
        asyncio.run(republish(options))
    else:
        {"capacity": capacity, "moves": moves}[options.what](options)


if __name__ == "__main__":
    main()
