"""The library imports, and selects, without uvloop and without what only the proxy or the command line needs."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.shared import ROOT

PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"uvloop", "click", "rich", "msgspec", "hypothesis"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
import fastroute, fastroute.sync
pool = fastroute.Pool("app", [fastroute.Server("10.0.0.1:80")])
assert pool.select().name == "10.0.0.1:80"
import asyncio
async def main():
    async with fastroute.Affinity() as affinity:
        assert (await fastroute.Router(pool, affinity=affinity).route("u")).server.name == "10.0.0.1:80"
asyncio.run(main())
"""


def test_the_library_works_without_uvloop_and_the_command_lines_packages():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], check=True, timeout=60, env=env)
