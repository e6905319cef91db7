"""`fastroute cache`: long work on the shared cache: warm it up, load it, purge much of it.

Not here: reading lists (cache_lists), working them off (long_work), asking for URLs (warm_client). What one replica's
HTTP cache is told to forget: `fastroute ctl purge`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from fastroute.cache.shared import SharedCache
from fastroute.cli.cache_lists import Entry, List, key_of, read_entries, read_lines
from fastroute.cli.long_work import Failed, Item, Outcome, run
from fastroute.cli.warm_client import Url, WarmClient, parse_url
from fastroute.config.kinds import Mistake
from fastroute.config.load import load as load_config
from fastroute.config.secrets import resolve_secret
from fastroute.errors import CacheError, UsageError
from fastroute.memcache import Memcached
from fastroute.model import parse_duration_s

__all__ = ["cache"]

STORE_TIMEOUT_S = 2.0
"""Long work is in no hurry: a node that is slow for a moment should not make it fail."""


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of all commands."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
        click.option("--failed", "failed_path", metavar="FILE", help="Write what failed or was left to FILE."),
        click.option(
            "--at-once", type=int, default=32, show_default=True, metavar="N", help="Items under way at once."
        ),
    ):
        command = option(command)
    return command


def _stored(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which cache."""
    for option in (
        click.option("--secret", metavar="SECRET", help="With which values are authenticated: env:NAME or file:PATH."),
        click.option("--copies", type=int, default=1, show_default=True, help="Nodes that hold each value."),
        click.option("--fleet", metavar="NAME", help="Prefix of the keys; by default the file's, or fr."),
        click.option("--namespace", required=True, metavar="NAME", help="The cache's namespace."),
        click.option("--memcached", "nodes", multiple=True, metavar="ADDR", help="A node of the cache; repeat it."),
        click.option("-c", "--config", "config_path", metavar="FILE", help="A configuration that names the nodes."),
    ):
        command = option(command)
    return command


@click.group()
def cache() -> None:
    """Warm the cache up, load it, purge much of it: with a progress bar, and a file of what is left to do.

    Ctrl-C ends the work in order: with --failed FILE the same command on that file goes on where it ended.
    """


@cache.command()
@click.argument("path", metavar="FILE")
@click.option("--through", multiple=True, metavar="ADDR", help="Ask this proxy, host:port; repeat it for several.")
@click.option("--host", metavar="NAME", help="The field Host; then lines may be paths.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A field to send, for variants.")
@click.option("--timeout", default="30s", show_default=True, help="How long one answer may take.")
@_shared
def warm(
    path: str,
    through: tuple[str, ...],
    host: str | None,
    headers: tuple[str, ...],
    timeout: str,
    **shared: Any,
) -> None:
    """Ask for every URL in FILE (one a line; - for standard input) through the proxies, so that they are cached.

    An answer with a status of 400 and more counts as failed.
    """
    _check_failed(path, shared)
    fields = [_field(text) for text in headers]
    client = WarmClient(through, parse_duration_s(timeout, name="timeout"), fields)

    async def work(items: List, at_once: int) -> Outcome:
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(at_once, "warm") as threads:

            async def get(url: Url) -> int:
                return await loop.run_in_executor(threads, client.get, url)

            return await _run(items, get, "warming up", shared)

    try:
        with read_lines(path, lambda text: parse_url(text, host)) as items:
            outcome = asyncio.run(work(items, max(1, shared["at_once"])))
    finally:
        client.close()
    _end(outcome, shared)


@cache.command()
@click.argument("path", metavar="FILE")
@click.option("--format", "form", type=click.Choice(["json", "msgpack"]), default="json", show_default=True)
@click.option("--ttl", default="1h", show_default=True, help="Of values that say none.")
@click.option("--stale", default="0s", show_default=True, help="Of values that say none.")
@_stored
@_shared
def load(path: str, form: str, ttl: str, stale: str, **options: Any) -> None:
    """Store the values in FILE (- for standard input).

    One JSON object a line, or msgpack objects one after the other: {"key": ..., "value": ..., "ttl": "5m",
    "stale": ..., "tags": [...]}, or [key, value]. A key is a string, or a list for a tuple.
    """
    parse_duration_s(ttl, name="ttl")
    parse_duration_s(stale, name="stale")

    async def store(into: SharedCache, entry: Entry) -> None:
        confirmed = await into.set(
            entry.key,
            entry.value,
            ttl=ttl if entry.ttl is None else entry.ttl,
            stale=stale if entry.stale is None else entry.stale,
            tags=entry.tags or (),
        )
        if not confirmed:
            raise Failed("the value is too large")

    _on_store(lambda: read_entries(path, form), path, store, "loading", options)


@cache.command()
@click.argument("path", metavar="[FILE]", required=False)
@click.option("--tags", is_flag=True, help="The lines are tags.")
@click.option("--json-keys", is_flag=True, help="The lines are keys as JSON: a string, or a list for a tuple.")
@click.option("--all", "everything", is_flag=True, help="Forget the whole namespace: one request per node, no FILE.")
@_stored
@_shared
def purge(path: str | None, tags: bool, json_keys: bool, everything: bool, **options: Any) -> None:
    """Forget the keys in FILE, one a line (- for standard input), in every process of the fleet."""
    if everything == (path is not None) or (tags and json_keys):
        found = "--tags and --json-keys" if tags and json_keys else "FILE and --all" if everything else "neither"
        raise UsageError(f"purge: found {found}; accepted: FILE of keys, FILE of tags with --tags, or --all")

    async def forget(of: SharedCache, key: Any) -> None:
        await (of.purge_namespace() if everything else of.purge_tags(key) if tags else of.delete(key))

    def parse(text: str) -> Any:
        if not json_keys:
            return text
        try:
            return key_of(json.loads(text))
        except ValueError as error:
            raise Failed(f"no JSON: {error}") from None

    if path is None:
        _on_store(lambda: List(iter([Item(b"", "", 0)])), "-", forget, "purging", options)
    else:
        _on_store(lambda: read_lines(path, parse), path, forget, "purging", options)


# -- how --------------------------------------------------------------------------------------------------------------


def _on_store(
    items: Callable[[], List], path: str, work: Callable[..., Any], title: str, options: dict[str, Any]
) -> None:
    _check_failed(path, options)
    nodes, fleet = _where(options)
    try:
        secret = None if options["secret"] is None else resolve_secret(options["secret"])
    except Mistake as mistake:
        raise UsageError(str(mistake)) from None

    async def whole(opened: List) -> Outcome:
        async with (
            Memcached(nodes, timeout=STORE_TIMEOUT_S, watch=False) as store,
            SharedCache(
                store,
                namespace=options["namespace"],
                fleet=fleet,
                secret=secret,
                near_bytes=0,
                copies=options["copies"],
                strict=True,
            ) as of,
        ):

            async def one(value: Any) -> int:
                try:
                    await work(of, value)
                except CacheError as error:
                    raise Failed(str(error)) from None
                return 0

            outcome = await _run(opened, one, title, options)
            outcome.size_bytes = of.statistics().bytes_written
            return outcome

    with items() as opened:
        outcome = asyncio.run(whole(opened))
    _end(outcome, options)


def _where(options: dict[str, Any]) -> tuple[list[str], str]:
    """Nodes and fleet, from the options and the file that they name."""
    nodes, fleet = list(options["nodes"]), options["fleet"]
    if options["config_path"] is not None:
        config = load_config(options["config_path"]).config
        store = config.store.memcached if config.store is not None else ()
        nodes = nodes or list(config.cache.memcached or store)
        fleet = fleet or config.fleet
    if not nodes:
        raise UsageError("which memcached? accepted: --memcached ADDR, or -c FILE with [cache] memcached or [store]")
    return nodes, fleet or "fr"


def _check_failed(path: str, options: dict[str, Any]) -> None:
    failed = options["failed_path"]
    if failed is not None and path != "-" and os.path.exists(failed) and os.path.samefile(failed, path):
        raise UsageError(f"--failed {failed}: it is the file that is read; accepted is another one")


async def _run(items: List, work: Callable[[Any], Any], title: str, options: dict[str, Any]) -> Outcome:
    return await run(
        items.items,
        work,
        at_once=options["at_once"],
        title=title,
        failed_path=options["failed_path"],
        total=items.size_bytes,
        rest_is_known=items.size_bytes is not None,
    )


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon) or any(not " " <= c <= "~" for c in text) or " " in name:
        raise UsageError(f"--header {text!r}: accepted is NAME:VALUE")
    return name, value.strip()


def _end(outcome: Outcome, options: dict[str, Any]) -> None:
    if options["as_json"]:
        click.echo(json.dumps(outcome.to_dict()))
    else:
        rate = outcome.done / outcome.seconds if outcome.seconds else 0.0
        click.echo(
            f"{outcome.done:,} done, {outcome.failed:,} failed, {outcome.left:,} left"
            f"{' (interrupted)' if outcome.interrupted else ''} in {outcome.seconds:.1f} s ({rate:,.0f}/s)"
        )
        for reason, count in outcome.reasons.most_common():
            example = outcome.examples.get(reason)
            click.echo(f"  {count:,} x {reason}{f', such as {example}' if example else ''}", err=True)
        if not outcome.fine and options["failed_path"] is not None:
            click.echo(f"  what is left: {options['failed_path']}", err=True)
    sys.exit(0 if outcome.fine else 1)
