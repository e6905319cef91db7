"""The catalogue of odd cookies: each row of shared/http/cookies.jsonl, on a real request head, as far as no proxy
has to speak.

A row's words become bytes in COOKIES; FR is the cookie's name, {T} a valid token that names server s2. What a balancer
does with the answer (new user, fallback server, Set-Cookie on the response) is the proxy's own test: PROXY_ROWS.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from fastroute._core.http_head import cookie_value, scan_request
from fastroute._core.token import TokenCodec
from fastroute.errors import DownstreamProtocolError
from fastroute.session.cookie import CookieSettings, cookie_codec, judge_age
from tests.support.http_rows import rows

ACTIVE, PREVIOUS, NEXT, RETIRED = (bytes([n]) * 8 + bytes(range(24)) for n in (1, 2, 3, 4))
RING = cookie_codec([ACTIVE, PREVIOUS, NEXT], "fr", "app")
S2, S3 = RING.server_digest("s2"), RING.server_digest("s3")
NOW_S, TTL_S = 1_800_000_000.0, 1800.0
KEY = bytes(range(16))


def token(codec: TokenCodec = RING, server: int = S2, age_s: float = 0.0) -> str:
    return codec.sign_text(KEY, server, 9, 1, int((NOW_S - age_s) // 60))


T = token()
VERSION, KEY_ID, PAYLOAD, MAC = T.split(".")


def with_parts(version: str = VERSION, key_id: str = KEY_ID, payload: str = PAYLOAD, mac: str = MAC) -> str:
    return ".".join((version, key_id, payload, mac))


def signed_by_hand(payload: bytes) -> str:
    """A correct MAC over any payload: what a holder of the secret could send."""
    import hashlib
    import hmac

    def mac(key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, hashlib.sha256).digest()

    def prefixed(data: bytes) -> bytes:
        return len(data).to_bytes(2, "big") + data

    purpose = RING.purpose.encode()
    key = mac(ACTIVE, b"fastroute token key v1" + prefixed(purpose))
    context = b"v1" + prefixed(purpose) + prefixed(b"fr") + prefixed(KEY_ID.encode())
    context += bytes(-len(context) % 64)
    return with_parts(payload=b64(payload), mac=b64(mac(key, context + payload)[:16]))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload_bytes() -> bytes:
    return base64.urlsafe_b64decode(PAYLOAD + "==")


def standard_alphabet() -> str:
    """A token that has a '-' or '_' to be spelt otherwise."""
    for generation in range(100):
        text = RING.sign_text(KEY, S2, 9, generation, int(NOW_S // 60))
        if re.search("[-_]", text.split(".", 2)[2]):
            return ".".join([*text.split(".")[:2], text.split(".", 2)[2].replace("-", "+").replace("_", "/")])
    raise AssertionError


COOKIES: dict[str, str | None] = {
    "k-none": None,
    "k-other-only": "a=1; b=2",
    "k-mac-truncated": "FR=" + with_parts(mac=MAC[:11]),
    "k-mac-zero": "FR=" + with_parts(mac="A" * 22),
    "k-kid-unknown": "FR=" + with_parts(key_id="zz"),
    "k-kid-traversal": "FR=" + with_parts(key_id="../../etc/passwd"),
    "k-old-key-grace": "FR=" + token(cookie_codec([PREVIOUS], "fr", "app")),
    "k-retired-key": "FR=" + token(cookie_codec([RETIRED], "fr", "app")),
    "k-future-key": "FR=" + token(cookie_codec([NEXT], "fr", "app")),
    "k-other-cluster": "FR=" + token(cookie_codec([ACTIVE], "other", "app")),
    "k-expired": "FR=" + token(age_s=TTL_S + 61),
    "k-clock-back": "FR=" + token(age_s=-3600),
    "k-raw-ip": "FR=10.0.0.5:8080",
    "k-bigip-style": "BIGipServerpool=1677787402.36895.0000",
    "k-no-equals": "FR",
    "k-space-around": f"FR = {T}",
    "k-case": f"fr={T}",
    "k-prefix-spoof": f"FRX={T}; XFR={T}",
    "k-dup-same": f"FR={T}; FR={T}",
    "k-quoted": f'FR="{T}"',
    "k-sandwich": f'$Version=1; FR="a; FR={T}; b="',
    "k-pct-encoded": "FR=" + T.replace(".", "%2E"),
    "k-b64-std": "FR=" + standard_alphabet(),
    "k-b64-padding": "FR=" + with_parts(payload=PAYLOAD + "=="),
    "k-b64-noncanonical": "FR=" + with_parts(mac=MAC[:-1] + chr(ord(MAC[-1]) + 1)),
    "k-nul": f"FR={T}\0",
    "k-highbit": "FR=\xff\xfe",
    "k-comma": f"FR={T},FR={token(server=S3)}",
    "k-oversized-4k": "FR=" + "A" * 5000,
    "k-oversized-64k": "FR=" + "A" * 70_000,
    "k-1000-pairs": "".join(f"c{n}=1; " for n in range(1000)) + f"FR={T}",
    "k-backslash-storm": 'a="' + '\\"' * 3000 + f'"; FR={T}',
    "k-payload-msgpack-bomb": "FR=" + signed_by_hand(b"\xdf\xff\xff\xff\xff" * 8),
    "k-payload-extra-fields": "FR=" + signed_by_hand(payload_bytes() + b"more"),
    "k-payload-version-next": "FR=" + with_parts(version="v2"),
    "k-delete": "FR=deleted; Max-Age=0",
}

PROXY_ROWS = {
    "k-unknown-server": "the hint names no configured server: the router assigns anew",
    "k-server-down": "the router moves the user and the response carries a new cookie",
    "k-server-draining": "the router keeps the binding",
    "k-setcookie-on-cached": "the cache stores no Set-Cookie of the balancer",
}
"""Rows that need the whole proxy or router; token and head have nothing to say in them."""

ELSEWHERE = {"k-timing", "k-setcookie-flags"}
"""Rows with a test of their own below."""


def catalogue() -> list[Any]:
    try:
        found = rows("cookies.jsonl")
    except pytest.skip.Exception as skipped:
        return [pytest.param({}, marks=pytest.mark.skip(reason=str(skipped)))]
    return [
        pytest.param(row, id=row["id"]) for row in found if row["id"] not in PROXY_ROWS and row["id"] not in ELSEWHERE
    ]


def outcome(cookie: str | None) -> tuple[str, str]:
    """("reject", status), ("ignore", cause) or ("honour", server): what the balancer knows after head and token."""
    line = "" if cookie is None else f"Cookie: {cookie}\r\n"
    data = f"GET / HTTP/1.1\r\nHost: a.example\r\n{line}\r\n".encode("latin-1")
    try:
        assert scan_request(data) is not None
    except DownstreamProtocolError as error:
        return "reject", str(error.status_hint)
    value = cookie_value(data, b"FR")
    if value is None:
        return "ignore", "absent"
    said = RING.verify_text(value)
    if isinstance(said, str):
        return "ignore", said
    if (age := judge_age(said[4], int(NOW_S // 60), TTL_S)) in ("stale", "expired"):
        return "ignore", age
    return "honour", {S2: "s2", S3: "s3"}.get(said[1], "unknown")


@pytest.mark.parametrize("row", catalogue())
def test_cookie_row_has_its_outcome(row: dict[str, Any]) -> None:
    verdict, detail = outcome(COOKIES[row["id"]])
    expected = row["expect"]
    if expected.startswith("honour:"):
        assert (verdict, detail) == ("honour", expected.partition(":")[2])
    elif expected.startswith("reject-"):
        assert (verdict, detail) == ("reject", expected.partition("-")[2])
    elif expected == "honour-or-ignore":
        assert (verdict, detail) == ("ignore", "expired")  # an hour ahead is more than the ttl of half an hour
    else:
        assert expected in {"ignore", "deterministic"}
        assert verdict == "ignore"


def test_every_cookie_row_is_a_test_or_the_proxys() -> None:
    ids = {row["id"] for row in rows("cookies.jsonl")}
    assert ids == set(COOKIES) | set(PROXY_ROWS) | ELSEWHERE


@pytest.mark.parametrize(
    ("settings", "tls", "text"),
    [
        ({}, False, b"fastroute=T; Path=/; HttpOnly; SameSite=Lax"),
        ({}, True, b"fastroute=T; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": "always"}, False, b"fastroute=T; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": "never"}, True, b"fastroute=T; Path=/; HttpOnly; SameSite=Lax"),
        (
            {"domain": ".a.example", "same_site": "Strict"},
            False,
            b"fastroute=T; Path=/; HttpOnly; SameSite=Strict; Domain=a.example",
        ),
        (
            {"name": "__Host-FR", "secure": "always", "same_site": "None"},
            False,
            b"__Host-FR=T; Path=/; HttpOnly; SameSite=None; Secure",
        ),
    ],
)
def test_set_cookie_carries_its_flags(settings: dict[str, str], tls: bool, text: bytes) -> None:
    assert CookieSettings(**settings).set_cookie_bytes(b"T", tls) == text


def test_a_mac_wrong_in_any_one_place_is_refused_alike() -> None:
    """The row k-timing. The comparison takes the same time wherever they differ by construction (no branch on
    the bytes, ext/fr_sha256.h); here: it looks at all of them."""
    codec = cookie_codec([ACTIVE], "fr", "app")
    for place in range(len(MAC) - 1):  # the last character carries bits that no byte of the MAC has
        wrong = MAC[:place] + ("B" if MAC[place] == "A" else "A") + MAC[place + 1 :]
        assert codec.verify_text(with_parts(mac=wrong)) == "bad_mac", place
