"""A process that uses a SharedCache as it is told: JSON lines in, JSON lines out.

    {"do": "ask", "key": K, "tasks": N, "ttl": S, "stale": S}   N at once -> {"done": K, "values": [...]}
    {"do": "get" | "delete", "key": K}, {"do": "set", "key": K, "value": V} -> {"result": ...}
    {"do": "statistics"}                                        -> {"statistics": {...}}
    {"do": "go"}                                                lets every held computation return; later ones too
A computation says {"computing": K}, appends its pid to the log file and waits for "go"; its value names the pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from fastroute.cache.shared import SharedCache
from fastroute.memcache.cluster import Memcached


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def main(address: str, log: str, lease: str) -> None:
    go = asyncio.Event()
    record = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    asking: set[asyncio.Task[None]] = set()
    lines = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )

    # A starved test machine can hold a process up for longer than the default 50 ms: that is not what is tested here.
    async with (
        Memcached([address], timeout="5s") as store,
        SharedCache(store, namespace="worker", lease=lease) as cache,
    ):

        async def ask(key: str, tasks: int, ttl: float, stale: float) -> None:
            async def compute() -> dict[str, Any]:
                os.write(record, f"{key} {os.getpid()}\n".encode())  # O_APPEND: whole lines, whoever else writes
                say(computing=key)
                await go.wait()
                return {"by": os.getpid(), "key": key}

            values = await asyncio.gather(
                *(cache.get_or_compute(key, compute, ttl=ttl, stale=stale) for _ in range(tasks))
            )
            say(done=key, values=values)

        say(ready=os.getpid())
        while line := await lines.readline():
            order = json.loads(line)
            do, key = order["do"], order.get("key")
            if do == "ask":
                task = asyncio.create_task(ask(key, order["tasks"], order["ttl"], order["stale"]))
                asking.add(task)
                task.add_done_callback(asking.discard)
            elif do == "get":
                say(result=await cache.get(key))
            elif do == "set":
                say(result=await cache.set(key, order["value"], ttl=60))
            elif do == "delete":
                say(result=await cache.delete(key))
            elif do == "statistics":
                say(statistics=cache.statistics().as_dict())
            elif do == "go":
                go.set()
        go.set()
        await asyncio.gather(*asking)
    transport.close()
    os.close(record)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
