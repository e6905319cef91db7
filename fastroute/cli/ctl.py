"""`fastroute ctl`: look at a running replica and change it, through its admin listener.

Not here: HTTP (ctl_client), tables (ctl_tables), changes of servers and bindings (ctl_changes). With --json what the
listener said is printed as it is, and errors too.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click

from fastroute.cli import ctl_changes as changes
from fastroute.cli import ctl_tables as tables
from fastroute.cli.ctl_client import AdminClient, read_token
from fastroute.cli.ctl_common import changing, echo, reading
from fastroute.errors import UsageError

__all__ = ["ctl"]


class _Servers(click.Group):
    """`servers`, `servers POOL`, `servers add ...`, `servers remove ...`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            return "list", self.commands["list"], args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = next((arg for arg in args if not arg.startswith("-")), None)
        if known not in self.commands and not {"--help", "-h"} & set(args):
            args = ["list", *args]
        return super().parse_args(ctx, args)


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
@click.option("--fleet", is_flag=True, help="Changes act on all replicas, and on those that start later.")
@click.pass_context
def ctl(ctx: click.Context, admin: str, token_file: str | None, fleet: bool) -> None:
    """Look at a running replica and change it."""

    def client() -> AdminClient:
        return AdminClient(admin, read_token(token_file), everywhere=fleet)

    ctx.obj = client


@ctl.command()
@reading
def pools(client: AdminClient, as_json: bool) -> None:
    """List the pools."""
    told = client.get("pools")
    echo(told, as_json, lambda: tables.printed(tables.pools(told["pools"])))


def _of_pool(client: AdminClient, pool: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [client.get("pools", pool)] if pool else client.get("pools")["pools"]
    return found


@ctl.group(cls=_Servers)
def servers() -> None:
    """List the servers of a pool, or of all pools; add and remove them.

    `servers [POOL]` lists them.
    """


@servers.command("list", hidden=True)
@click.argument("pool", required=False)
@reading
def servers_list(client: AdminClient, pool: str | None, as_json: bool) -> None:
    """List the servers of POOL, or of all pools."""
    told = _of_pool(client, pool)
    echo({"pools": told}, as_json, lambda: tables.printed(tables.servers(told)))


servers.add_command(changes.add_server)
servers.add_command(changes.remove_server)
for _command in (changes.drain, changes.ready, changes.maintenance, changes.weight):
    ctl.add_command(_command)


@ctl.group()
def affinity() -> None:
    """Who is bound where."""


@affinity.command("list")
@click.argument("pool")
@reading
def affinity_list(client: AdminClient, pool: str, as_json: bool) -> None:
    """Count the bindings of each server of POOL (those in this machine's zone)."""
    told = client.get("affinity", pool)
    echo(told, as_json, lambda: tables.printed(tables.affinity(told)))


@affinity.command("find")
@click.argument("pool")
@click.argument("key")
@reading
def affinity_find(client: AdminClient, pool: str, key: str, as_json: bool) -> None:
    """Say where KEY is bound; with the balancer's own cookie KEY is the cookie's value."""
    told = client.get("affinity", pool, key=key)
    echo(told, as_json, lambda: tables.binding(told))


affinity.add_command(changes.release)


@ctl.command()
@click.argument("pool")
@click.argument("key")
@reading
def explain(client: AdminClient, pool: str, key: str, as_json: bool) -> None:
    """Say where KEY goes and why, as the running replica sees it."""
    told = client.get("explain", pool, key=key)

    def shown() -> str:
        lines = [f"{told['pick'] or 'nowhere'} ({told['reason']}): {told['why']}"]
        lines += [f"  {one['name']}: {one['verdict']}: {one['why']}" for one in told["candidates"]]
        return "\n".join([*lines, *(f"note: {note}" for note in told["notes"])])

    echo(told, as_json, shown)


@ctl.command()
@reading
def statistics(client: AdminClient, as_json: bool) -> None:
    """Print every counter, as JSON."""
    told = client.get("statistics")
    echo(told, as_json, lambda: json.dumps(told, indent=2))


@ctl.command()
@reading
def reload(client: AdminClient, as_json: bool) -> None:
    """Read the configuration again; a bad file is refused and the old one stays."""
    told = client.post("reload", body={})
    echo(told, as_json, lambda: f"reloaded: {told['detail']}")


@ctl.command()
@click.argument("page", metavar="[URL]", required=False)
@click.option("--url", metavar="URL", help="The responses of this URL, with all variants.")
@click.option("--tag", metavar="TAG", help="Those with this word in Surrogate-Key, Cache-Tag or Cache-Groups.")
@click.option("--namespace", metavar="POOL", help="Those of this pool.")
@click.option("--soft", is_flag=True, help="Make it stale in place of forgetting it; with a URL.")
@changing
def purge(
    client: AdminClient,
    page: str | None,
    url: str | None,
    tag: str | None,
    namespace: str | None,
    soft: bool,
    as_json: bool,
) -> None:
    """Forget responses that are cached, on all replicas, with or without --fleet."""
    if page is not None and url is not None:
        raise UsageError("purge: found two URLs; accepted: one")
    url = url if page is None else page
    body: dict[str, Any] = {
        key: value for key, value in (("url", url), ("tag", tag), ("namespace", namespace)) if value is not None
    }
    if len(body) != 1:
        found = " and ".join(f"--{key}" for key in body) or "nothing to purge"
        raise UsageError(f"purge: found {found}; accepted: one of URL, --tag and --namespace")
    told = client.post("purge", body=body | ({"soft": True} if soft else {}))
    echo(told, as_json, lambda: f"purged in {', '.join(told['pools'])}")


@ctl.command()
@reading
def fleet(client: AdminClient, as_json: bool) -> None:
    """List the replicas, and what operators ordered for all of them."""
    told = client.get("fleet")
    echo(told, as_json, lambda: tables.fleet(told))


@ctl.command()
@click.argument("pool", required=False)
@click.option("--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="S", help="Seconds.")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="End after so many looks.")
@reading
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
                live.update(tables.fitted(tables.servers(*look()), live.console.width), refresh=True)
                time.sleep(every)
                done += 1
    except KeyboardInterrupt:
        return
