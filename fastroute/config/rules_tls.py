"""What is said of certificates that are fine otherwise: those that have ended, end soon, or have not begun.

Rules of this file: a warning, never a refusal: a reload for another reason must not fail over a certificate that ended
while the replica ran.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from fastroute.clock import SYSTEM, Clock
from fastroute.config.certificates import Validity, validity
from fastroute.config.kinds import quote
from fastroute.config.schema import Config, StoreTls
from fastroute.config.tls import FILE_BYTES_MAX

__all__ = ["EXPIRES_SOON_S", "certificate_warnings"]

EXPIRES_SOON_S = 14 * 86400.0
"""How long before its end a certificate draws a warning. ACME clients renew 30 days before the end, or when a third of
the time is left: with two weeks left something keeps them from it, and there is still time to look."""


PATH_MAX = 50
"""Characters of a path that a message shows; quote() cuts what is longer than its own limit."""


def certificate_warnings(config: Config, clock: Clock = SYSTEM) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key path, message) of each."""
    now_s = clock.wall_s()
    for name, listener in config.listeners.items():
        for asked_for, pair in listener.tls.pairs if listener.tls is not None else ():
            path = ("listeners", name, "tls", *(("sni", asked_for) if asked_for else ()))
            if said := _said(pair.begins_s, pair.ends_s, now_s):
                yield path, f"the certificate in {_path(pair.certificate)}, or one of its chain, {said}"
    for name, pool in config.pools.items():
        if pool.tls is not None and pool.tls.certificate and (said := _said(pool.tls.begins_s, pool.tls.ends_s, now_s)):
            message = f"the certificate in {_path(pool.tls.certificate)}, or one of its chain, {said}"
            yield ("pools", name, "tls"), message
    tls = config.store.tls if config.store is not None else False
    if isinstance(tls, StoreTls) and tls.certificate and (said := _said(*_validity_of(tls.certificate), now_s)):
        yield ("store", "tls"), f"the certificate in {_path(tls.certificate)}, or one of its chain, {said}"


def _validity_of(path: str) -> Validity:
    """Of a file that the configuration does not hold: what cannot be read is said where it is loaded."""
    try:
        with open(path, "rb") as file:
            return validity(file.read(FILE_BYTES_MAX))
    except (OSError, ValueError):
        return Validity()


def _path(path: str) -> str:
    """As quote(), but its end is what tells files apart."""
    return quote(path) if len(path) <= PATH_MAX else quote("..." + path[-PATH_MAX:])


def _said(begins_s: float, ends_s: float, now_s: float) -> str:
    if not ends_s:
        return ""
    if ends_s <= now_s:
        return f"ended on {_day(ends_s)} ({_span(now_s - ends_s)} ago): peers refuse it; renew it and reload"
    if ends_s - now_s < EXPIRES_SOON_S:
        return f"ends on {_day(ends_s)} (in {_span(ends_s - now_s)}): renew it and reload"
    if begins_s > now_s:
        return (
            f"is not valid before {_day(begins_s)} (in {_span(begins_s - now_s)}): is the clock of this machine right?"
        )
    return ""


def _day(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_s))


def _span(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3600)} h" if seconds < 2 * 86400 else f"{int(seconds // 86400)} days"
