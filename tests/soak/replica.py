"""`fastroute serve` whose workers tell what they hold: `python -m tests.soak.replica CONFIG DIRECTORY`.

On SIGUSR1 a worker writes DIRECTORY/PID.json: asyncio tasks, counters, requests in flight. When
it accepts it leaves a file DIRECTORY/up-IDLE-PID, IDLE being the listener's idle time: which configuration it runs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pathlib
import signal
import sys
from typing import Any

from fastroute.cli.logs import log_to_stderr
from fastroute.config.load import load
from fastroute.errors import FastrouteError
from fastroute.proxy.server import Proxy
from fastroute.proxy.supervisor import Supervisor


class TellingProxy(Proxy):
    """A Proxy that answers SIGUSR1."""

    async def start(self) -> None:
        await super().start()
        idle_s = self._config.listeners["web"].timeouts.idle_s
        (pathlib.Path(sys.argv[2]) / f"up-{idle_s:.0f}-{os.getpid()}").touch()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)

    def _tell(self) -> None:
        found = self.statistics()
        pools: dict[str, Any] = found.pop("pools")
        found["in_flight"] = sum(one.in_flight for pool in pools.values() for one in pool.servers)
        found["tasks"] = len(asyncio.all_tasks())
        found["objects"] = len(gc.get_objects())
        to = pathlib.Path(sys.argv[2]) / f"{os.getpid()}.json"
        half = to.with_suffix(".half")
        half.write_text(json.dumps(found))
        half.rename(to)


def main(path: str) -> int:
    log_to_stderr()
    try:
        return Supervisor(load(path), lambda: load(path), make=TellingProxy).run()
    except FastrouteError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
