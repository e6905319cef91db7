"""The balancer's cookie around its token: where secrets come from, which attributes are accepted, its age."""

from __future__ import annotations

import pathlib

import pytest

from fastroute.errors import ConfigError
from fastroute.session.cookie import CookieSettings, cookie_codec, judge_age, key_ring

GOOD, BETTER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


def test_a_ring_keeps_the_order_of_its_sources(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secret"
    path.write_text(BETTER + "\n")
    path.chmod(0o600)
    ring = key_ring([f"file:{path}", "env:S", b"x" * 16 + bytes(range(16))], environment={"S": GOOD})
    assert [bytes(secret) for secret in ring] == [BETTER.encode(), GOOD.encode(), b"x" * 16 + bytes(range(16))]
    assert key_ring(GOOD)[0] == GOOD.encode()
    assert GOOD not in repr(ring) + str(ring)


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ([], "0 sources"),
        ([GOOD] * 9, "9 sources"),
        ([GOOD, GOOD], "secret 2 of 2: the same as secret 1"),
        (["short-secret"], "12 bytes"),
        (["\0" * 32], "different bytes"),
        ([b"\0" * 32], "different bytes"),
        ([b"too-short"], "9 bytes"),
        (["env:MISSING"], "MISSING"),
        ([GOOD, "env:SHORT"], "secret 2 of 2"),
        (["file:/nonexistent/secret"], "/nonexistent/secret"),
    ],
)
def test_a_ring_that_cannot_be_used_names_the_source_and_never_the_value(
    sources: list[str | bytes], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        key_ring(sources, environment={"SHORT": "tiny-value"})
    assert named in str(caught.value)
    for value in (GOOD, "short-secret", "too-short", "tiny-value"):
        assert value not in str(caught.value)


def test_replicas_with_one_ring_read_each_others_cookies() -> None:
    one, two = cookie_codec(key_ring(GOOD), "fr", "app"), cookie_codec(key_ring([BETTER, GOOD]), "fr", "app")
    token = one.sign_text(bytes(16), one.server_digest("web-1"), 1, 1, 1)
    assert two.verify_text(token) == (bytes(16), two.server_digest("web-1"), 1, 1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a;b"},
        {"name": "a" * 129},
        {"domain": "a b"},
        {"domain": "a.example; Secure"},
        {"domain": "-a.example"},
        {"domain": "a..example"},
        {"same_site": "lax"},
        {"secure": "yes"},
        {"same_site": "None"},
        {"name": "__Host-FR"},
        {"name": "__Secure-FR", "secure": "never"},
        {"name": "__host-FR", "secure": "always", "domain": "a.example"},
    ],
)
def test_attributes_that_browsers_drop_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        CookieSettings(**arguments)


def test_settings_are_immutable_values() -> None:
    one = CookieSettings()
    assert one == CookieSettings() != CookieSettings(name="other")
    assert hash(one) == hash(CookieSettings())
    with pytest.raises(AttributeError):
        one.name = "other"
    with pytest.raises(AttributeError):
        del one.name
    assert "fastroute" in repr(one)
    assert one.set_cookie_bytes(b"T", True) == one.prefix + b"T" + one.suffix(True)


@pytest.mark.parametrize(
    ("age_minutes", "ttl_s", "verdict"),
    [
        (0, 1800, "fresh"),
        (7, 1800, "fresh"),
        (8, 1800, "reissue"),
        (30, 1800, "reissue"),
        (31, 1800, "stale"),
        (38, 1800, "stale"),
        (39, 1800, "expired"),
        (0, 1, "fresh"),
        (1, 1, "reissue"),
        (2, 1, "stale"),
        (3, 1, "expired"),
        (-30, 1800, "fresh"),
        (-31, 1800, "expired"),
    ],
)
def test_the_age_of_a_token_decides_what_becomes_of_it(age_minutes: int, ttl_s: float, verdict: str) -> None:
    assert judge_age(30_000_000, 30_000_000 + age_minutes, ttl_s) == verdict
