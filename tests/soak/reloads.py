"""Reloads under load: `python -m tests.soak.reloads --count 100` (make reloads). Status 0 when no request failed.

Each reload is a changed configuration: new workers on the same sockets, the old ones drain. Clients go on all the time,
with new connections and kept ones; each answer is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import sys
import tempfile
from typing import Any

from tests.soak.clients import Party, Tally
from tests.soak.stage import WAIT_S, Stage


async def reload_under_load(stage: Stage, count: int, *, clients: int = 8) -> Tally:
    """What came of the clients' requests through so many reloads."""
    tally = Tally()
    party = Party(stage.port, tally, 1)
    party.start(steady=clients, slow_reader=1, slow_writer=1)
    for _ in range(count):
        answered = tally.seen["steady answered"]
        stage.reload()
        async with asyncio.timeout(WAIT_S):
            # Traffic through each generation, not only reloads.
            while stage.reloaded() < stage.reloads or tally.seen["steady answered"] < answered + 20:
                await asyncio.sleep(0.02)
    await party.stop()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="reloads")
    parser.add_argument("--count", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory))
        try:
            tally = asyncio.run(reload_under_load(stage, chosen.count))
        finally:
            stage.close()
    found: dict[str, Any] = {
        "reloads": chosen.count,
        "clients": dict(sorted(tally.seen.items())),
        "lost": [how for *_, how in tally.lost],
        "wrong": tally.wrong,
    }
    print(json.dumps(found, indent=1))
    return 1 if tally.lost or tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
