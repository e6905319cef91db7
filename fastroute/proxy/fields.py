"""Header rules of a listener, a pool and a route, put together for one of the listener's routes.

Not here: what rules may say (fastroute.config.fields), how they are written (ext/fr_fields.h). The order is listener,
pool, route; the later one wins: `set` replaces a field that an earlier one wrote, `remove` takes it back, `add` adds to
it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastroute._core.http_fields import PIECES, FieldRules
from fastroute.config.fields import pieces_of
from fastroute.config.schema import FieldsConfig, ListenerConfig, PoolConfig, RouteConfig

__all__ = ["request_rules", "response_rules"]


def request_rules(
    listener: ListenerConfig, pool: PoolConfig | None, route: RouteConfig | None, known: dict[str, str]
) -> FieldRules | None:
    """Of requests on their way to a server; None: there are none. known: places whose values are known already."""
    return _compiled([one.request_headers for one in (listener, pool, route) if one is not None], known)


def response_rules(
    listener: ListenerConfig, pool: PoolConfig | None, route: RouteConfig | None, known: dict[str, str]
) -> FieldRules | None:
    """Of responses on their way to a client; likewise."""
    return _compiled([one.response_headers for one in (listener, pool, route) if one is not None], known)


def _compiled(rules: Sequence[FieldsConfig], known: dict[str, str]) -> FieldRules | None:
    dropped: dict[str, None] = {}
    written: list[tuple[str, str]] = []
    for one in rules:
        gone = {name.lower() for name in one.remove} | {name.lower() for name, _ in one.set}
        dropped |= dict.fromkeys(sorted(gone))
        written = [(name, text) for name, text in written if name.lower() not in gone]
        written += [*one.set, *one.add]
    if not dropped and not written:
        return None
    pieces: list[bytes | int] = []
    plain = b""
    for name, text in written:
        plain += f"{name}: ".encode()
        for kind, what in pieces_of(text, known):
            if kind == "text":
                plain += what.encode()
            else:
                pieces += [plain, PIECES[what]]
                plain = b""
        plain += b"\r\n"
    return FieldRules([name.encode() for name in dropped], [*pieces, *([plain] if plain else [])])
