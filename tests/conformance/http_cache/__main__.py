"""The RFCs' cases against caches side by side.

    python -m tests.conformance.http_cache [--product nginx ...] [--failures] [--only vary/]

Without arguments: every product that is installed. fastroute with `--replicas N`; the others always as one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import pathlib
import tempfile

from tests.conformance.http_cache.cases import CASES
from tests.conformance.http_cache.wire import Origin, play_all
from tests.support.cache_proxies import PRODUCTS, binary_of, caching_proxies, version_of


async def outcomes(product: str, replicas: int = 1, only: str = "") -> dict[str, str]:
    """Case name -> what was wrong, "" for nothing."""
    chosen = [of for of in CASES if only in of.name]
    with tempfile.TemporaryDirectory() as scratch:
        async with Origin() as origin:
            with caching_proxies(product, origin.port, directory=pathlib.Path(scratch), replicas=replicas) as proxies:
                found = await play_all(chosen, origin, proxies.ports)
                for process in proxies.processes:
                    if process.popen.poll() is not None:
                        raise AssertionError(
                            f"{product} ended with {process.popen.returncode}: {process.output()[-3000:]}"
                        )
                return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--product", action="append", choices=PRODUCTS)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--failures", action="store_true")
    options = parser.parse_args()
    kinds = collections.Counter(of.kind for of in CASES if options.only in of.name)
    print("| cache | replicas |" + "".join(f" {kind} |" for kind in kinds) + "\n|---|---:|" + "---:|" * len(kinds))
    for product in options.product or [one for one in PRODUCTS if one != "none" and binary_of(one)]:
        replicas = options.replicas if product == "fastroute" else 1
        found = asyncio.run(outcomes(product, replicas, options.only))
        passed = collections.Counter(of.kind for of in CASES if found.get(of.name) == "")
        print(
            f"| {version_of(product)} | {replicas} |" + "".join(f" {passed[kind]} of {kinds[kind]} |" for kind in kinds)
        )
        if options.failures:
            for of in CASES:
                if found.get(of.name):
                    print(f"    {of.kind:5} {of.name} (RFC {of.clause}): {found[of.name]}")


if __name__ == "__main__":
    main()
