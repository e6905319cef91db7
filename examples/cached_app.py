"""A small web application whose expensive pages are computed once for all of its processes.

    python examples/cached_app.py --memcached 127.0.0.1:11211 --port 8090 &
    python examples/cached_app.py --memcached 127.0.0.1:11211 --port 8091 &
    curl http://127.0.0.1:8090/report/7        computes for --cost seconds
    curl http://127.0.0.1:8091/report/7        answers at once with the same report: the other process has it
    curl http://127.0.0.1:8091/statistics      what sharing gave here, and what it cost

Start as many as you like. Ask several for a new report at the same moment: one computes, the others wait for it.
Kill memcached: every process goes on with what it has near, and computes the rest for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
from typing import Any

from fastroute.cache import SharedCache
from fastroute.memcache import Memcached

REQUEST_LINE = re.compile(rb"GET /(report/(\d{1,9})|statistics) HTTP/1\.[01]\r\n")


async def compute_report(number: int, cost_s: float) -> dict[str, Any]:
    """Stands for a slow query: everything in it can be cached, whoever asks."""
    await asyncio.sleep(cost_s)
    return {
        "report": number,
        "lines": [f"line {line} of report {number}" for line in range(3)],
        "computed_by": os.getpid(),
    }


async def answer(cache: SharedCache, request: bytes, cost_s: float) -> tuple[int, Any]:
    """Status and body for a request."""
    asked = REQUEST_LINE.match(request)
    if asked is None:
        return 404, {"error": "there are /report/NUMBER and /statistics"}
    if asked[1] == b"statistics":
        return 200, cache.statistics().as_dict()
    number = int(asked[2])
    # Fresh for a minute; for ten more a stale report is served at once, while one process makes a new one.
    return 200, await cache.get_or_compute(
        ("report", number), lambda: compute_report(number, cost_s), ttl="1m", stale="10m"
    )


async def serve(memcached: list[str], port: int, cost_s: float) -> None:
    async with Memcached(memcached) as store, SharedCache(store, namespace="reports", near_bytes="16MiB") as cache:

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(10):
                    request = await reader.readuntil(b"\r\n\r\n")
                status, body = await answer(cache, request, cost_s)
                data = json.dumps(body).encode() + b"\n"
                writer.write(
                    b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\nConnection: close\r\n\r\n"
                    % (status, b"OK" if status == 200 else b"Not Found", len(data))
                )
                writer.write(data)
                await writer.drain()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass  # the client's fault or its end; nobody is left to tell
            finally:
                writer.close()

        server = await asyncio.start_server(client, "127.0.0.1", port)
        async with server:
            print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/report/7", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a web application on fastroute's shared cache")
    parser.add_argument("--memcached", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=8090, help="0 for any free one")
    parser.add_argument("--cost", type=float, default=2.0, metavar="SECONDS", help="what a report costs")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.memcached, options.port, options.cost))
