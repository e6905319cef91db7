"""The `fastroute` command: parses arguments, calls what does the work, turns errors into one line and an exit status.

Exit statuses: 0 fine, 1 failed, 2 usage. Output that was asked for goes to standard output, everything else to
standard error. What a command needs is imported when it runs, so that `fastroute version` is quick.
"""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

import click

import fastroute
from fastroute.errors import ConfigError, FastrouteError, UsageError

_config_option = click.option(
    "-c", "--config", "path", required=True, metavar="FILE", help="The configuration, a TOML file."
)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What writing to a file that standard output was sent to says; a pipe that was closed is click's to handle."""


class _Group(click.Group):
    """Turns fastroute's own errors into one line on standard error; `ctl` and `cache` are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "cache", "ctl"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "ctl":
            from fastroute.cli.ctl import ctl

            return ctl
        if cmd_name == "cache":
            from fastroute.cli.cache import cache

            return cache
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(error, 2)
        except FastrouteError as error:
            _fail(error, 1)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            _fail(f"the output cannot be written: {error.strerror}", 1)


def _fail(error: object, status: int) -> None:
    click.echo(f"fastroute: {error}", err=True)
    sys.exit(status)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(fastroute.__version__, prog_name="fastroute", message="%(prog)s %(version)s")
def main() -> None:
    """Sticky routing and shared cache for fleets of stateless balancers."""


@main.command()
@_config_option
@click.option("--bind", "binds", multiple=True, metavar="LISTENER=ADDR", help="Bind a listener to another address.")
@click.option("--admin", metavar="ADDR", help="Bind the admin listener to this address, whatever the file says.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log lines.")
def serve(path: str, binds: tuple[str, ...], admin: str | None, log_format: str) -> None:
    """Run a replica: its listeners and workers.

    Prints one line "ready" on standard error when every listener accepts. SIGTERM drains and stops, a second one stops
    at once; SIGHUP reloads the file (a bad one is refused, the old configuration stays).
    """
    from fastroute.cli.logs import log_to_stderr
    from fastroute.config.load import Loaded, load

    overrides = _binds(binds)
    log_to_stderr(as_json=log_format == "json")
    try:
        loaded = load(path, binds=overrides, admin=admin)
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(1)
    from fastroute.admin.main import run_admin
    from fastroute.proxy.server import Proxy
    from fastroute.proxy.supervisor import Supervisor

    def reread() -> Loaded:
        return load(path, binds=overrides, admin=admin)

    sys.exit(Supervisor(loaded, reread, make=Proxy, admin=run_admin).run())


def _message(error: ConfigError) -> str:
    """The message without the place, which JSON has beside it."""
    where = ":".join(str(part) for part in (error.path, error.line) if part is not None)
    return str(error).removeprefix(f"{where}: ")


def _binds(binds: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in binds:
        listener, equals, address = text.partition("=")
        if not (listener and equals and address):
            raise UsageError(f"--bind {text!r}: accepted is LISTENER=ADDR, such as web=127.0.0.1:8080")
        found.setdefault(listener, []).append(address)
    return found


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(path: str, as_json: bool) -> None:
    """Check a configuration file: status 0 when it can be used, 1 with FILE:LINE: MESSAGE when not."""
    from fastroute.config.load import load
    from fastroute.config.rules import summary

    try:
        loaded = load(path)
    except ConfigError as error:
        if as_json:
            found = {"file": error.path, "line": error.line, "message": _message(error)}
            click.echo(json.dumps({"ok": False, "errors": [found], "warnings": []}))
        else:
            click.echo(error, err=True)
        sys.exit(1)
    if as_json:
        warnings = [{"file": path, "line": line, "message": message} for line, message in loaded.warnings]
        click.echo(json.dumps({"ok": True, "errors": [], "warnings": warnings}))
        return
    for line, message in loaded.warnings:
        click.echo(f"{path}:{f'{line}:' if line else ''} warning: {message}", err=True)
    click.echo(f"{path}: ok: {summary(loaded.config)}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def version(as_json: bool) -> None:
    """Print the version, and with --json what it runs on."""
    if not as_json:
        click.echo(f"fastroute {fastroute.__version__}")
        return
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        loop = "uvloop " + version_of("uvloop")
    except PackageNotFoundError:
        loop = "asyncio"
    about = {
        "version": fastroute.__version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "event_loop": loop,
    }
    click.echo(json.dumps(about))


@main.command()
@click.option("--requests", type=click.IntRange(1), metavar="N", help="End after N requests; status 1 on any mistake.")
@click.option("--ports", default="8080,8081", show_default=True, help="The replicas' ports; 0 takes a free one.")
@click.option("--servers", type=click.IntRange(1, 50), default=3, show_default=True, help="Application servers.")
@click.option("--users", type=click.IntRange(1, 1_000_000), default=300, show_default=True, help="Generated users.")
@click.option("--no-memcached", is_flag=True, help="Share one zone even if memcached is installed.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON and nothing else.")
def demo(requests: int | None, ports: str, servers: int, users: int, no_memcached: bool, as_json: bool) -> None:
    """Show two replicas that agree: small servers, users who come to both replicas at once, a live table.

    Runs until Ctrl-C, or for --requests N. Uses memcached if it is installed, else one shared zone.
    """
    from fastroute.cli.demo.children import parse_ports
    from fastroute.cli.demo.run import run_demo

    sys.exit(
        run_demo(
            ports=parse_ports(ports),
            servers=servers,
            users=users,
            requests=requests,
            memcached=not no_memcached,
            as_json=as_json,
        )
    )


_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@main.command()
@_config_option
@click.option("--pool", "pool_name", metavar="P", help="The pool.")
@click.option("--key", metavar="K", help="The key as the rule finds it; for insert also the whole cookie.")
@click.option("--url", metavar="URL", help="Instead of --pool: the request, whose route names the pool.")
@click.option(
    "--client", default="", metavar="IP", help="With --url: the client's address, for routes that ask for it."
)
@click.option("--listener", metavar="L", help="With --url: the listener, where there are several.")
@_json_option
def explain(
    path: str,
    pool_name: str | None,
    key: str | None,
    url: str | None,
    client: str,
    listener: str | None,
    as_json: bool,
) -> None:
    """Say where a key goes and why: the pick, what decided, and why each other server was passed over.

    With --url also which route takes the request; without --key that alone.

    Reads the configuration, a copy of this machine's zone if there is one, and asks the store once. Changes nothing.
    States that only a running replica knows (draining, down) are those of the file: all servers ready.
    """
    from fastroute.cli.reports import run_explain
    from fastroute.cli.routes import run_route

    if (pool_name is None) == (url is None):
        raise UsageError("explain needs --pool P or --url URL")
    if url is None and key is None:
        raise UsageError("explain --pool P needs --key K")
    said = None
    if url is not None:
        said = run_route(path, url, client, listener)
        pool_name = said.pool or None
    if key is None or pool_name is None:
        click.echo(json.dumps(said.to_dict()) if as_json and said else str(said))
    elif as_json:
        click.echo(run_explain(path, pool_name, key, True))
    else:
        click.echo((f"{said}\n" if said else "") + run_explain(path, pool_name, key, False))


@main.command()
@_config_option
@click.option("--to", "new_path", required=True, metavar="FILE2", help="The configuration after the change.")
@_json_option
def preview(path: str, new_path: str, as_json: bool) -> None:
    """Say what a changed configuration would move: share of keys, from whom to whom, and which live bindings.

    Live bindings are counted in a copy of this machine's zone, if there is one.
    """
    from fastroute.cli.reports import run_preview

    click.echo(run_preview(path, new_path, as_json))


@main.command()
@_json_option
def bench(as_json: bool) -> None:
    """Measure selection, batches and table builds on this machine, beside other packages that are installed."""
    from fastroute.cli.speed import run_bench

    run_bench(as_json)
