"""What the demo prints: a live table on a terminal, plain lines elsewhere, a summary at the end."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastroute.cli.demo.children import Children
from fastroute.cli.demo.users import Tally

REFRESH_S = 0.25
LINE_S = 2.0
"""A plain line every so often."""


class View:
    """Shows a tally while it grows; use as a context manager."""

    def __init__(self, children: Children, tally: Tally, *, quiet: bool = False) -> None:
        self.children, self.tally, self.quiet = children, tally, quiet
        self.console = Console(highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.next_line_s = time.monotonic() + LINE_S
        self._rate_from = (time.monotonic(), 0)
        self._rate = 0.0

    def __enter__(self) -> View:
        if not self.quiet:
            first, second = self.children.ports
            servers = len(self.children.apps)
            self.console.print(f"fastroute demo: servers: {servers}, balancers: 2; store: {self.children.store_text()}")
            self.console.print(f"  try: curl -b jar -c jar http://127.0.0.1:{first}/ http://127.0.0.1:{second}/")
            self.console.print(f"  or open http://127.0.0.1:{first}/ and http://127.0.0.1:{second}/ in a browser")
            name, victim = next(iter(self.children.apps.items()))
            self.console.print(f"  or end a server and watch its users move: kill -9 {victim.popen.pid}  ({name})")
            if self.console.is_terminal:
                self.live = Live(self._table(), console=self.console, auto_refresh=False)
                self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self._table(), refresh=True)
            self.live.stop()

    def refresh(self) -> None:
        """Show the present state."""
        now_s = time.monotonic()
        since_s, since = self._rate_from
        if now_s - since_s >= 1.0:
            self._rate = (self.tally.requests - since) / (now_s - since_s)
            self._rate_from = (now_s, self.tally.requests)
        if self.live is not None:
            self.live.update(self._table(), refresh=True)
        elif not self.quiet and now_s >= self.next_line_s:
            self.next_line_s = now_s + LINE_S
            self.console.print(self._line(now_s))

    def _line(self, now_s: float) -> str:
        tally = self.tally
        servers = " ".join(f"{name}={tally.users_of[name]}" for name in self.children.apps)
        return (
            f"{now_s - tally.started_s:6.1f} s  requests={tally.requests} users={tally.users} splits={tally.splits} "
            f"failed={tally.failed} moved={tally.moved} p50={tally.percentile_ms(0.5):.1f}ms "
            f"p99={tally.percentile_ms(0.99):.1f}ms  {servers}"
        )

    def _table(self) -> Table:
        tally, dead = self.tally, self.children.dead_servers()
        table = Table(title=f"store: {self.children.store_text()}", title_justify="left", caption_justify="left")
        for column in ("server", "users", "requests", "share"):
            table.add_column(column, justify="left" if column == "server" else "right")
        for name in self.children.apps:
            share = tally.requests_of[name] / max(1, tally.requests)
            table.add_row(
                Text(f"{name} (dead)" if name in dead else name, style="red" if name in dead else ""),
                str(tally.users_of[name]),
                str(tally.requests_of[name]),
                f"{share:.1%}",
            )
        table.add_section()
        table.add_row("all", str(tally.users), str(tally.requests), f"{self._rate:.0f}/s")
        table.caption = Text.assemble(
            ("splits ", ""),
            (str(tally.splits), "bold red" if tally.splits else "bold green"),
            ("  failed ", ""),
            (str(tally.failed), "bold red" if tally.failed else "bold green"),
            (
                f"  moved {tally.moved}  p50 {tally.percentile_ms(0.5):.1f} ms  p99 {tally.percentile_ms(0.99):.1f} ms",
                "",
            ),
        )
        return table


def summary(children: Children, tally: Tally) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "requests": tally.requests,
        "users": tally.users,
        "splits": tally.splits,
        "failed": tally.failed,
        "moved": tally.moved,
        "seconds": round(time.monotonic() - tally.started_s, 3),
        "p50_ms": round(tally.percentile_ms(0.5), 3),
        "p99_ms": round(tally.percentile_ms(0.99), 3),
        "store": children.store_text(),
        "servers": {
            name: {"users": tally.users_of[name], "requests": tally.requests_of[name]} for name in children.apps
        },
    }


def print_summary(children: Children, tally: Tally, *, as_json: bool) -> None:
    """The result on standard output."""
    found = summary(children, tally)
    if as_json:
        print(json.dumps(found), flush=True)
        return
    print(f"{found['requests']} requests of {found['users']} users through two replicas in {found['seconds']:.1f} s")
    for name, counts in found["servers"].items():
        print(f"  {name:<8} {counts['users']:>7} users {counts['requests']:>9} requests")
    print(f"store: {found['store']}")
    print(f"latency: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms")
    if tally.last_failure:
        print(f"last failure: {tally.last_failure}")
    print(f"splits {found['splits']}, failed {found['failed']}, moved {found['moved']}", flush=True)
