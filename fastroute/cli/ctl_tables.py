"""What `fastroute ctl` shows to people: tables out of the admin interface's JSON. Pure."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["affinity", "binding", "counted", "fitted", "fleet", "pools", "printed", "server", "servers"]

WIDTH_MAX = 1000
"""Characters of a line: two names of 64, an address, numbers."""

COLOURS = {"ready": "green", "draining": "yellow", "maintenance": "blue", "down": "red", "ejected": "magenta"}


def counted(count: int, what: str) -> str:
    """ "1 binding", "2 bindings"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def printed(table: Any) -> str:
    """A table as text, colours on a terminal. As wide as it needs to be: a line that the terminal breaks can be read, a
    state of three letters cannot."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200, color_system=None)
    if isinstance(table, Table):
        console.width = max(console.width, _width(table))
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def fitted(table: Table, width: int) -> Table:
    """The same table, without what is needed least where it is wider than so many characters."""
    for title in ("ORDER", "REQUESTS", "FAILURES", "WEIGHT"):
        if _width(table) > width:
            table.columns = [column for column in table.columns if column.header != title]
            for index, column in enumerate(table.columns):
                column._index = index
    return table


def _width(table: Table) -> int:
    console = Console(width=WIDTH_MAX)
    return Measurement.get(console, console.options, table).maximum


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name, right = column.rstrip("<"), not column.endswith("<")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    return table


def _state(one: dict[str, Any]) -> Text:
    text = Text(one["state"], COLOURS.get(one["state"], ""))
    if len(one.get("states", {})) > 1:  # the workers do not agree
        text.append(" (" + ", ".join(f"{count} {state}" for state, count in sorted(one["states"].items())) + ")")
    return text


def _weight(one: dict[str, Any]) -> str:
    weight, effective = one["weight"], one["weight_effective"]
    return f"{weight}" if effective == weight else f"{weight} ({effective:g})"


def pools(told: list[dict[str, Any]]) -> Table:
    """One line per pool."""
    evened = any(one.get("rebalance") for one in told)
    columns = ("MOVED", "TO MOVE") if evened else ()
    table = _table("POOL<", "POLICY<", "SERVERS", "READY", "BINDINGS", *columns, "PENDING", "REQUESTS", "NOTE<")
    for one in told:
        note = Text("panic: all servers are used", "red") if one["panic"] else Text("")
        for warning in one.get("warnings", ()):
            note.append(f"{', ' if note else ''}sticky too, {warning['side']}: {warning['product']}", "yellow")
        ready = Text(str(one["ready"]), "red" if not one["ready"] else "")
        row = [one["name"], one["policy"], str(len(one["servers"])), ready, str(one["bindings"])]
        if evened:  # what [pools.NAME.rebalance] has moved, and would move now
            of = one.get("rebalance")
            row += [str(of["moved"]), str(of["left"])] if of else ["-", "-"]
        table.add_row(*row, str(one["pending"]), str(one["requests_total"]), note)
    return table


def servers(told: list[dict[str, Any]], rates: dict[tuple[str, str], float] | None = None) -> Table:
    """One line per server of these pools.

    Args:
        rates: (pool, server) -> requests a second, for a column of its own.
    """
    rated = ("REQ/S",) if rates is not None else ()
    table = _table(
        "POOL<",
        "SERVER<",
        "STATE<",
        "WEIGHT",
        "IN FLIGHT",
        "BINDINGS",
        *rated,
        "REQUESTS",
        "FAILURES",
        "LATENCY",
        "ORDER<",
    )
    for pool in told:
        for one in pool["servers"]:
            order = one.get("order") or {}
            ordered = ", ".join(f"{key} {order[key]}" for key in ("state", "weight") if order.get(key) is not None)
            rate = (f"{rates.get((pool['name'], one['name']), 0.0):.1f}",) if rates is not None else ()
            table.add_row(
                pool["name"],
                one["name"],
                _state(one),
                _weight(one),
                str(one["in_flight"]),
                str(one["bindings"]),
                *rate,
                str(one["requests_total"]),
                Text(str(one["failures_total"]), "red" if one["failures_total"] else ""),
                f"{one['latency_ms']:.1f} ms" if one["latency_ms"] else "-",
                ordered,
            )
    return table


def server(pool: str, told: dict[str, Any]) -> str:
    """What a change came to, in one or two lines."""
    lines = [
        f"{pool}/{told['name']}: {told['state']}, weight {told['weight']}, {told['in_flight']} in flight, "
        f"{counted(told['bindings'], 'binding')}"
    ]
    if told["workers_following"] < told["workers"]:
        lines.append(f"only {told['workers_following']} of {told['workers']} workers follow so far: look again")
    if "warning" in told:
        lines.append(f"warning: {told['warning']}")
    return "\n".join(lines)


def fleet(told: dict[str, Any]) -> str:
    """The replicas, and what was ordered for all of them."""
    if told["store"] is None:
        return f"this replica has no fleet: {told['note']}"
    if not told["store"]:
        return "the store does not answer: nothing is known of other replicas"
    table = _table("REPLICA<", "HOST<", "PID", "WORKERS")
    for one in told["replicas"]:
        pid = str(one.get("supervisor") or one.get("pid", ""))
        table.add_row(one["name"], str(one.get("host", "")), pid, str(one.get("workers", "")))
    lines = [printed(table)]
    if told["changes"]:
        orders = _table("POOL<", "SERVER<", "ORDER<", "BY<", "AGO", "NOTE<")
        for one in told["changes"]:
            orders.add_row(one["pool"], one["server"], _ordered(one), one["by"], _ago(one["at"]), one["note"])
        lines += ["", printed(orders)]
    if told["refused"]:
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(told["refused"].items()))
        lines += ["", f"not believed in the store: {causes}"]
    return "\n".join(lines)


def _ordered(entry: dict[str, Any]) -> str:
    if entry["kind"] == "member":
        return "removed" if entry.get("removed") else f"added at {entry['added'].get('address')}"
    if entry["kind"] == "release":
        return "bindings released"
    parts = [entry["state"]] if entry.get("state") else []
    parts += [f"weight {entry['weight']}"] if entry.get("weight") is not None else []
    return ", ".join(parts)


def _ago(at_s: float) -> str:
    seconds = max(0.0, time.time() - at_s)
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def affinity(told: dict[str, Any]) -> Table:
    """How many bindings each server has."""
    table = _table("SERVER<", "BINDINGS")
    for name, count in sorted(told["servers"].items(), key=lambda item: (-(item[1] or 0), item[0])):
        table.add_row(name, str(count))
    table.add_row("(all)", str(told["bindings"]))
    return table


def binding(told: dict[str, Any]) -> str:
    """Where one key is bound."""
    lines = [f"{told['pool']}: {'bound to ' + str(told['server']) if told['bound'] else 'not bound'}"]
    for place in ("zone", "store"):
        found = told[place]
        if found:
            lines.append(f"  {place}: {_record(found)}")
    return "\n".join(lines)


def _record(found: dict[str, Any]) -> str:
    """What the zone or the store has of a key."""
    if found.get("server") is None:
        return {"miss": "nothing"}.get(found.get("status", ""), str(found.get("status", "nothing")))
    parts = [str(found["server"]), f"term {found['term']}", f"generation {found['generation']}"]
    if found.get("age_ms") is not None:
        parts.append(f"{found['age_ms'] / 1000:.1f} s old")
    parts += ["seen once"] if found.get("once") else []
    parts += ["provisional: decided while the store was away"] if found.get("provisional") else []
    return ", ".join(parts)
