"""Cookies by which other balancers keep users on a server: which name and value is whose.

Not here: where they are looked for (ext/http_sights.pyx), when that draws a warning (fastroute.proxy.layers). Pure.

Rules of this file: an entry is a name that the product gives its cookie by itself, or that its own documentation has in
every example; a name that an application might use too counts only with a value in the product's form. What is missing
here is not warned of; what is wrong here is a false alarm, which is worse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["FASTROUTE", "Foreign", "foreign", "is_meant", "pairs", "set_pair"]

FASTROUTE = "another fastroute fleet"


class Foreign(NamedTuple):
    """Whose a cookie is.

    Attributes:
        product: who sets it, for people; one layer is one product, however many cookies it sets.
        cookie: its name; with "*" at the end where the name goes on.
    """

    product: str
    cookie: str


def _rule(product: str, cookie: str, value: str = "") -> tuple[str, Foreign, re.Pattern[bytes] | None]:
    return cookie, Foreign(product, cookie), re.compile(value.encode() + rb"\Z") if value else None


_HEX32 = "[0-9a-f]{32}"

_RULES = (
    _rule("HAProxy", "SERVERID"),  # configuration manual, `cookie`: SERVERID and SRV; Alibaba's SLB has SERVERID too
    _rule("HAProxy", "SRV"),
    _rule("Alibaba SLB", "SERVERCORSID"),
    _rule("nginx sticky module", "route", f"{_HEX32}|[0-9a-f]{{40}}"),  # md5 or sha1, as it is by default
    _rule("ingress-nginx", "INGRESSCOOKIE"),  # annotation session-cookie-name
    _rule("Apache mod_proxy_balancer", "ROUTEID", r"\..+"),  # manual: ROUTEID=.%{BALANCER_WORKER_ROUTE}e
    _rule("Apache mod_proxy_balancer", "BALANCEID", r"balancer\..+"),
    _rule("Traefik", "_TRAEFIK_BACKEND"),  # version 1; later ones: see _TRAEFIK
    _rule("Caddy", "lb", "[0-9a-f]{64}"),  # lb_policy cookie
    _rule("AWS Application Load Balancer", "AWSALB"),
    _rule("AWS Application Load Balancer", "AWSALBCORS"),
    _rule("AWS Application Load Balancer", "AWSALBTG"),
    _rule("AWS Application Load Balancer", "AWSALBTGCORS"),
    _rule("AWS Application Load Balancer", "AWSALBAPP-*"),
    _rule("AWS Classic Load Balancer", "AWSELB"),
    _rule("AWS Classic Load Balancer", "AWSELBCORS"),
    _rule("Azure App Service", "ARRAffinity"),
    _rule("Azure App Service", "ARRAffinitySameSite"),
    _rule("Azure Application Gateway", "ApplicationGatewayAffinity"),
    _rule("Azure Application Gateway", "ApplicationGatewayAffinityCORS"),
    _rule("Azure Front Door", "ASLBSA"),
    _rule("Azure Front Door", "ASLBSACORS"),
    _rule("Google Cloud Load Balancing", "GCLB"),
    _rule("Google Cloud Load Balancing", "GCILB"),
    _rule("Cloudflare Load Balancing", "__cflb"),
    _rule("DigitalOcean Load Balancer", "DO-LB"),
    _rule("Hetzner Load Balancer", "HCLBSTICKY"),
    _rule("Oracle Cloud Load Balancer", "X-Oracle-BMC-LBS-Route"),
    _rule("Tencent CLB", "tgw_l7_route"),
    _rule("Heroku", "heroku-session-affinity"),
    _rule("F5 BIG-IP", "BIGipServer*"),  # then the pool's name
    _rule("Citrix NetScaler", "NSC_*", "[0-9a-f]{40,}"),  # its sign-on has NSC_ cookies with other values
    _rule("Imperva", "nlbi_*"),
)

_EXACT = {name.encode(): (found, value) for name, found, value in _RULES if not name.endswith("*")}
_PREFIXES = tuple((name[:-1].encode(), found, value) for name, found, value in _RULES if name.endswith("*"))

_NAMES: dict[str, set[str]] = {}
for _entry in _RULES:
    _NAMES.setdefault(_entry[1].product, set()).add(_entry[1].cookie)

_TRAEFIK = re.compile(rb"_[0-9a-f]{5}\Z"), re.compile(rb"(?:[0-9a-f]{14,16}|https?://.+)\Z")
"""Version 2 and later: five digits of the service's SHA-1; the server as a hash of 64 bits, or as its URL."""

_TOKEN = re.compile(rb"v1\.[A-Za-z0-9_-]{8}\.[A-Za-z0-9_-]{54,96}\.[A-Za-z0-9_-]{22}\Z")
"""Our own (ext/token.pyx), whoever signed it."""

_PLAIN = re.compile(rb"[A-Za-z0-9_.-]{1,64}\Z")
"""Names that may stand in a line of the log as they came."""

_ENDS = re.compile(rb"(?i);[ \t]*(?:max-age[ \t]*=[ \t]*(?:0+|-[0-9]+)[ \t]*(?:;|\Z)|expires[ \t]*=[^;]*\b1970\b)")


def foreign(name: bytes, value: bytes) -> Foreign | None:
    """Whose cookie this is, or None: nobody's whom we know. One in our own form is FASTROUTE's, whoever signed it."""
    known = _EXACT.get(name)
    if known is not None:
        return known[0] if known[1] is None or known[1].match(value) else None
    for prefix, found, form in _PREFIXES:
        if name.startswith(prefix) and (form is None or form.match(value)):
            return found
    if _TRAEFIK[0].match(name) and _TRAEFIK[1].match(value):
        return Foreign("Traefik", "_*")
    if _TOKEN.match(value):
        return Foreign(FASTROUTE, name.decode("ascii") if _PLAIN.match(name) else "*")
    return None


def pairs(cookies: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, value) of each cookie in a Cookie field (RFC 6265, 5.4), quotes and empty values left out."""
    for pair in cookies.split(b";"):
        name, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and name and value:
            yield name, value.strip(b'"')


def set_pair(set_cookie: bytes) -> tuple[bytes, bytes] | None:
    """(name, value) of a Set-Cookie field; None where it takes a cookie back."""
    found = next(pairs(set_cookie.partition(b";")[0]), None)
    return None if found is None or _ENDS.search(set_cookie) else found


def is_meant(product: str, cookie: str, meant: Iterable[str]) -> bool:
    """Is a layer one of these cookies', which may end in "*"? One of a product's cookies stands for all of them."""
    names = {cookie, *_NAMES.get(product, ())}
    return any(
        one in names or (one.endswith("*") and any(name.startswith(one[:-1]) for name in names)) for one in meant
    )
