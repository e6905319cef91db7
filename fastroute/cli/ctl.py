"""`fastroute ctl`: look at a running replica and change it, through its admin listener.

Not here: HTTP (ctl_client), tables (ctl_tables). A change acts on one replica, all its workers; it is answered when
they follow it. With --json what the listener said is printed as it is, and errors too.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from fastroute.cli import ctl_tables as tables
from fastroute.cli.ctl_client import AdminClient, AdminError, read_token
from fastroute.config.kinds import NOT_YET
from fastroute.errors import UsageError

__all__ = ["ctl"]

WAIT_S = 1.0
"""How often a drain that is waited for is looked at."""


def _json(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --json, and errors in its form."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def run(*args: Any, as_json: bool, **keys: Any) -> None:
        try:
            command(click.get_current_context().obj(), *args, as_json=as_json, **keys)
        except AdminError as error:
            if not as_json:
                raise
            told = error.told or {"error": "unreachable", "detail": str(error), "hint": ""}
            click.echo(json.dumps(told))
            sys.exit(1)

    return run


def _echo(told: Any, as_json: bool, shown: Callable[[], str]) -> None:
    click.echo(json.dumps(told) if as_json else shown())


@click.group()
@click.option(
    "--admin",
    default="127.0.0.1:9900",
    show_default=True,
    envvar="FASTROUTE_ADMIN",
    metavar="ADDR",
    help="The replica's admin listener: host:port or unix:PATH.",
)
@click.option("--token-file", envvar="FASTROUTE_TOKEN_FILE", metavar="F", help="A file with the token, for changes.")
@click.option("--fleet", is_flag=True, help=f"Act on all replicas ({NOT_YET}).")
@click.pass_context
def ctl(ctx: click.Context, admin: str, token_file: str | None, fleet: bool) -> None:
    """Look at a running replica and change it."""

    def client() -> AdminClient:
        if fleet:
            raise UsageError(f"--fleet {NOT_YET}; run the command against each replica")
        return AdminClient(admin, read_token(token_file))

    ctx.obj = client


@ctl.command()
@_json
def pools(client: AdminClient, as_json: bool) -> None:
    """List the pools."""
    told = client.get("pools")
    _echo(told, as_json, lambda: tables.printed(tables.pools(told["pools"])))


def _of_pool(client: AdminClient, pool: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [client.get("pools", pool)] if pool else client.get("pools")["pools"]
    return found


@ctl.command()
@click.argument("pool", required=False)
@_json
def servers(client: AdminClient, pool: str | None, as_json: bool) -> None:
    """List the servers of POOL, or of all pools."""
    told = _of_pool(client, pool)
    _echo({"pools": told}, as_json, lambda: tables.printed(tables.servers(told)))


def _find(client: AdminClient, words: tuple[str, ...]) -> tuple[str, str]:
    """(pool, server) of POOL SERVER, POOL/SERVER, or SERVER where one pool has it."""
    if len(words) == 2:
        return words[0], words[1]
    if len(words) != 1:
        raise UsageError("which server? accepted: POOL SERVER, POOL/SERVER, or SERVER where one pool has it")
    every = client.get("pools")["pools"]
    for pool in every:
        name = words[0].removeprefix(f"{pool['name']}/")
        if name != words[0] and any(one["name"] == name for one in pool["servers"]):
            return pool["name"], name
    found = [pool["name"] for pool in every if any(one["name"] == words[0] for one in pool["servers"])]
    if len(found) == 1:
        return found[0], words[0]
    if found:
        raise UsageError(f"server {words[0]} is in the pools {', '.join(found)}: say which, as POOL SERVER")
    raise AdminError(f"no pool has a server {words[0]!r}; fastroute ctl servers lists them", 404)


def _order(client: AdminClient, words: tuple[str, ...], as_json: bool, **order: Any) -> tuple[str, str]:
    pool, name = _find(client, words)
    told = client.post("pools", pool, "servers", name, body=order)
    _echo(told, as_json, lambda: tables.server(pool, told))
    return pool, name


_which = click.argument("server", nargs=-1, required=True, metavar="[POOL] SERVER")


@ctl.command()
@_which
@click.option("--wait", is_flag=True, help="Wait until no binding and no request is left.")
@click.option("--timeout", type=click.FloatRange(0), default=0.0, metavar="S", help="Wait so many seconds at most.")
@_json
def drain(client: AdminClient, server: tuple[str, ...], wait: bool, timeout: float, as_json: bool) -> None:
    """Take no new users; bound ones stay until their bindings end."""
    pool, name = _order(client, server, as_json, state="draining")
    end_s = time.monotonic() + timeout if timeout else float("inf")
    while wait:
        told = client.get("pools", pool, "servers", name)
        if as_json:
            click.echo(json.dumps({"bindings": told["bindings"], "in_flight": told["in_flight"]}))
        else:
            click.echo(f"{pool}/{name}: {told['bindings']} bindings and {told['in_flight']} requests are left")
        if not told["bindings"] and not told["in_flight"]:
            return
        if time.monotonic() >= end_s:
            raise AdminError(f"{pool}/{name} is not empty after {timeout:g} s; it goes on draining")
        time.sleep(WAIT_S)


@ctl.command()
@_which
@_json
def ready(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Take an order back: the server is used as health says."""
    _order(client, server, as_json, state="ready")


@ctl.command()
@_which
@_json
def maintenance(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Take no requests at all: bound users move."""
    _order(client, server, as_json, state="maintenance")


@ctl.command()
@click.argument("server", nargs=-1, required=True, metavar="[POOL] SERVER WEIGHT")
@_json
def weight(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Change a server's weight: 0 takes no new users, "file" is what the configuration says."""
    *words, text = server
    if not words or not (text.isdecimal() or text == "file"):
        raise UsageError(f'weight {text!r}: accepted: [POOL] SERVER and a whole number, or "file"')
    _order(client, tuple(words), as_json, weight=None if text == "file" else int(text))


@ctl.group()
def affinity() -> None:
    """Who is bound where."""


@affinity.command("list")
@click.argument("pool")
@_json
def affinity_list(client: AdminClient, pool: str, as_json: bool) -> None:
    """Count the bindings of each server of POOL (those in this machine's zone)."""
    told = client.get("affinity", pool)
    _echo(told, as_json, lambda: tables.printed(tables.affinity(told)))


@affinity.command("find")
@click.argument("pool")
@click.argument("key")
@_json
def affinity_find(client: AdminClient, pool: str, key: str, as_json: bool) -> None:
    """Say where KEY is bound; with the balancer's own cookie KEY is the cookie's value."""
    told = client.get("affinity", pool, key=key)
    _echo(told, as_json, lambda: tables.binding(told))


@affinity.command("release")
@click.argument("pool")
@click.argument("key")
@_json
def affinity_release(client: AdminClient, pool: str, key: str, as_json: bool) -> None:
    """End KEY's binding: its next request is a new user's."""
    told = client.post("affinity", pool, "release", body={"key": key})
    said = {"released": "released", "absent": "was not bound", "moved": "was bound anew meanwhile: that binding stays"}
    _echo(told, as_json, lambda: said.get(told["result"], told["result"]))


@ctl.command()
@click.argument("pool")
@click.argument("key")
@_json
def explain(client: AdminClient, pool: str, key: str, as_json: bool) -> None:
    """Say where KEY goes and why, as the running replica sees it."""
    told = client.get("explain", pool, key=key)

    def shown() -> str:
        lines = [f"{told['pick'] or 'nowhere'} ({told['reason']}): {told['why']}"]
        lines += [f"  {one['name']}: {one['verdict']}: {one['why']}" for one in told["candidates"]]
        return "\n".join([*lines, *(f"note: {note}" for note in told["notes"])])

    _echo(told, as_json, shown)


@ctl.command()
@_json
def statistics(client: AdminClient, as_json: bool) -> None:
    """Print every counter, as JSON."""
    told = client.get("statistics")
    _echo(told, as_json, lambda: json.dumps(told, indent=2))


@ctl.command()
@_json
def reload(client: AdminClient, as_json: bool) -> None:
    """Read the configuration again; a bad file is refused and the old one stays."""
    told = client.post("reload", body={})
    _echo(told, as_json, lambda: f"reloaded: {told['detail']}")


@ctl.command()
@click.option("--url", metavar="URL")
@click.option("--tag", metavar="TAG")
@click.option("--namespace", metavar="NAME")
@_json
def purge(client: AdminClient, url: str | None, tag: str | None, namespace: str | None, as_json: bool) -> None:
    """Forget what is cached."""
    body = {key: value for key, value in (("url", url), ("tag", tag), ("namespace", namespace)) if value is not None}
    if len(body) != 1:
        raise UsageError("what? accepted: one of --url, --tag and --namespace")
    told = client.post("purge", body=body)
    _echo(told, as_json, lambda: json.dumps(told))


@ctl.command()
@_json
def fleet(client: AdminClient, as_json: bool) -> None:
    """List the replicas."""
    told = client.get("fleet")
    _echo(told, as_json, lambda: json.dumps(told))


@ctl.command()
@click.argument("pool", required=False)
@click.option("--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="S", help="Seconds.")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="End after so many looks.")
@_json
def top(client: AdminClient, pool: str | None, every: float, rounds: int | None, as_json: bool) -> None:
    """Watch the servers: a table that is drawn anew, or with --json one line per look. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    before: dict[tuple[str, str], int] = {}
    before_s = 0.0

    def look() -> tuple[list[dict[str, Any]], dict[tuple[str, str], float]]:
        nonlocal before, before_s
        told, now_s = _of_pool(client, pool), time.monotonic()
        counts = {(of["name"], one["name"]): one["requests_total"] for of in told for one in of["servers"]}
        passed_s = now_s - before_s
        rates = {key: max(0, counts[key] - before[key]) / passed_s for key in counts if key in before}
        before, before_s = counts, now_s
        return told, rates

    try:
        if as_json or not Console().is_terminal:
            done = 0
            while rounds is None or done < rounds:
                time.sleep(every if done else 0.0)
                told, rates = look()
                named = [{"pool": p, "server": s, "rate": round(rate, 1)} for (p, s), rate in rates.items()]
                table = json.dumps({"pools": told, "rates": named}) if as_json else None
                click.echo(table or tables.printed(tables.servers(told, rates)))
                done += 1
            return
        with Live(auto_refresh=False, screen=rounds is None) as live:
            done = 0
            while rounds is None or done < rounds:
                live.update(tables.servers(*look()), refresh=True)
                time.sleep(every)
                done += 1
    except KeyboardInterrupt:
        return
