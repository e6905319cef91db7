"""The commands of `fastroute ctl` that change servers and bindings, and those that wait for what a change brings about.

Each acts on one replica, all its workers, or with --fleet on all replicas; it is answered when the workers of the
replica that was asked follow.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from fastroute.cli import ctl_tables as tables
from fastroute.cli.ctl_client import AdminClient, AdminError
from fastroute.cli.ctl_common import changing, echo, find, order_of, which
from fastroute.cli.ctl_waits import DrainWatch
from fastroute.errors import UsageError

__all__ = ["add_server", "drain", "maintenance", "ready", "release", "remove_server", "weight"]

WAIT_S = 0.5
"""How often what is waited for is looked at."""


def _order(client: AdminClient, words: tuple[str, ...], as_json: bool, **order: Any) -> tuple[str, str]:
    pool, name = find(client, words)
    told = client.post("pools", pool, "servers", name, body=order_of(client, **order))
    echo(told, as_json, lambda: tables.server(pool, told))
    return pool, name


def _watch(look: Callable[[], tuple[int, str, Any, bool]], as_json: bool, what: str, end_s: float) -> bool:
    """Watch until nothing is left: a bar on a terminal, else lines; False where end_s came first.

    Args:
        look: (how much is left, the line that says so, the same as JSON, is it over).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    said: str | None = None
    console = Console(stderr=True)
    shown = not as_json and console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        left, line, told, over = look()
        task, most = bar.add_task(what, total=max(left, 1)), max(left, 1)
        while True:
            most = max(most, left)
            bar.update(task, total=most, completed=most - left, description=line)
            if not shown and line != said:
                click.echo(json.dumps(told) if as_json else line)
                said = line
            if over:
                return True
            if time.monotonic() >= end_s:
                return False
            time.sleep(WAIT_S)
            left, line, told, over = look()


@click.command()
@which
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until no binding is left, or the deadline has passed, and no request is under way.",
)
@click.option(
    "--deadline",
    metavar="T",
    help='After this ("10m", or seconds), or when nothing is left, the drain ends: the server is in maintenance.',
)
@click.option("--timeout", type=click.FloatRange(0), default=0.0, metavar="S", help="Wait so many seconds at most.")
@changing
def drain(
    client: AdminClient, server: tuple[str, ...], wait: bool, deadline: str | None, timeout: float, as_json: bool
) -> None:
    """Take no new users; bound ones stay until their bindings end, or the deadline passes."""
    order: dict[str, Any] = {"state": "draining"}
    if deadline is not None:
        order["deadline"] = float(deadline) if deadline.replace(".", "", 1).isdecimal() else deadline
    pool, name = _order(client, server, as_json, **order)
    if not wait:
        return

    watch = DrainWatch(client, pool, name, ends=deadline is not None)
    end_s = time.monotonic() + timeout if timeout else float("inf")
    if not _watch(watch.look, as_json, f"draining {pool}/{name}", end_s):
        raise AdminError(f"{pool}/{name} is not empty after {timeout:g} s; it goes on draining")


@click.command()
@which
@changing
def ready(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Take an order back: the server is used as health says."""
    _order(client, server, as_json, state="ready")


@click.command()
@which
@changing
def maintenance(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Take no requests at all: bound users move."""
    _order(client, server, as_json, state="maintenance")


@click.command()
@click.argument("server", nargs=-1, required=True, metavar="[POOL] SERVER WEIGHT")
@changing
def weight(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Change a server's weight: 0 takes no new users, "file" is what the configuration says."""
    *words, text = server
    if not words or not (text.isdecimal() or text == "file"):
        raise UsageError(f'weight {text!r}: accepted: [POOL] SERVER and a whole number, or "file"')
    _order(client, tuple(words), as_json, weight=None if text == "file" else int(text))


@click.command("add")
@click.argument("pool")
@click.argument("address")
@click.option("--name", metavar="NAME", help="Its identity; the address unless given.")
@click.option("--weight", type=click.IntRange(0, 65535), default=1, show_default=True, help="0 takes no new users.")
@click.option("--backup", is_flag=True, help="Used only when no other server is ready.")
@changing
def add_server(
    client: AdminClient, pool: str, address: str, name: str | None, weight: int, backup: bool, as_json: bool
) -> None:
    """Take a server into POOL. It stays until it is removed, or the replica ends: write it into the file too."""
    body: dict[str, Any] = {"address": address, "weight": weight}
    body |= {"name": name} if name is not None else {}
    body |= {"backup": True} if backup else {}
    told = client.post("pools", pool, "servers", body=order_of(client, **body))
    echo(told, as_json, lambda: tables.server(pool, told))


@click.command("remove")
@which
@changing
def remove_server(client: AdminClient, server: tuple[str, ...], as_json: bool) -> None:
    """Take a server out of its pool: no request from now on, its users move, what is under way ends."""
    pool, name = find(client, server)
    told = client.delete("pools", pool, "servers", name, body=order_of(client))
    warning = f"\nwarning: {told['warning']}" if "warning" in told else ""
    echo(told, as_json, lambda: f"{pool}/{name}: removed{warning}")


@click.command("release")
@click.argument("pool")
@click.argument("key", required=False)
@click.option("--server", metavar="S", help="All bindings of this server, instead of a key's.")
@changing
def release(client: AdminClient, pool: str, key: str | None, server: str | None, as_json: bool) -> None:
    """End KEY's binding: its next request is a new user's. With --server: move all of a server's to the others."""
    if (key is None) == (server is None):
        raise UsageError(f"release: found {'both' if key else 'neither'}; accepted: one of KEY and --server S")
    if key is not None:
        told = client.post("affinity", pool, "release", body=order_of(client, key=key))
        said = {"absent": "was not bound", "moved": "was bound anew meanwhile: that binding stays"}
        echo(told, as_json, lambda: said.get(told["result"], told["result"]))
        return
    client.post("affinity", pool, "release", body=order_of(client, server=server))

    def look() -> tuple[int, str, Any, bool]:
        every = client.get("affinity", pool, "release")["releases"]
        job = next(one for one in every if one["server"] == server)
        line = (
            f"{pool}/{server}: {job['moved']} of {job['bindings']} bindings moved, {job['kept']} kept, {job['state']}"
        )
        return job["left"], line, job, job["state"] != "running"

    _watch(look, as_json, f"releasing {pool}/{server}", float("inf"))
    job = look()[2]
    if job["state"] != "done":
        raise AdminError(f"{pool}/{server}: {job['state']}: {job['note']}")
    if not as_json and sys.stderr.isatty():
        click.echo(look()[1])
