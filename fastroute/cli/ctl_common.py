"""What the commands of `fastroute ctl` share: the client, --json, errors in its form, which server is meant."""

from __future__ import annotations

import functools
import getpass
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import click

from fastroute.cli.ctl_client import AdminClient, AdminError
from fastroute.errors import UsageError

__all__ = ["changing", "echo", "find", "order_of", "reading", "which"]

BY_MAX = 64

which = click.argument("server", nargs=-1, required=True, metavar="[POOL] SERVER")


def _command(changes: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @functools.wraps(command)
        def run(*args: Any, as_json: bool, **keys: Any) -> None:
            client = click.get_current_context().obj()
            if client.everywhere and not changes:
                raise UsageError(
                    "--fleet is for changes: drain, ready, maintenance, weight, servers add, affinity release, purge"
                )
            try:
                command(client, *args, as_json=as_json, **keys)
            except AdminError as error:
                if not as_json:
                    raise
                told = error.told or {"error": "unreachable", "detail": str(error), "hint": ""}
                click.echo(json.dumps(told))
                sys.exit(1)

        return run

    return decorate


reading = _command(False)
"""A command that looks: the option --json, and errors in its form."""

changing = _command(True)
"""A command that changes, and takes --fleet too."""


def echo(told: Any, as_json: bool, shown: Callable[[], str]) -> None:
    """Print an answer."""
    click.echo(json.dumps(told) if as_json else shown())


def order_of(client: AdminClient, **order: Any) -> dict[str, Any]:
    """The body of a change: where it holds, and who makes it."""
    if client.everywhere:
        order["scope"] = "fleet"
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        who = "operator"
    return {**order, "by": f"{who}@{socket.gethostname()}"[:BY_MAX]}


def find(client: AdminClient, words: tuple[str, ...]) -> tuple[str, str]:
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
