"""Whose cookies: other balancers' by name and form, and what the replica's notice makes of them."""

from __future__ import annotations

import fcntl
import multiprocessing
import os

import pytest

from fastroute._core.token import TokenCodec
from fastroute.metrics.notice import LAYER_AGAIN_S, LayerSeen, Notice
from fastroute.session.foreign import FASTROUTE, foreign, is_meant, pairs, set_pair

TOKEN = TokenCodec([b"a secret of another fleet, 32 bytes."], "other", "affinity:app").sign_text(
    b"k" * 16, 12345, 7, 1, 29_000_000
)

KNOWN = [
    ("SERVERID", "web1", "HAProxy"),
    ("SRV", "s2", "HAProxy"),
    ("route", "c5c62a339e7744272a54643b3be5bf64", "nginx sticky module"),
    ("INGRESSCOOKIE", "1700000000.123.45.678|0123", "ingress-nginx"),
    ("ROUTEID", ".node1", "Apache mod_proxy_balancer"),
    ("_TRAEFIK_BACKEND", "http://10.0.0.5:80", "Traefik"),
    ("_6f3a1", "0f9c1d2e3b4a5968", "Traefik"),
    ("lb", "ab" * 32, "Caddy"),
    ("AWSALB", "XZsaxHEp0o9b5mG9n0A3X/wO9c+=", "AWS Application Load Balancer"),
    ("AWSALBAPP-0", "_remove_", "AWS Application Load Balancer"),
    ("AWSELB", "ABCDEF", "AWS Classic Load Balancer"),
    ("ARRAffinitySameSite", "ab" * 32, "Azure App Service"),
    ("ApplicationGatewayAffinity", "ab" * 16, "Azure Application Gateway"),
    ("GCLB", "CJqQ", "Google Cloud Load Balancing"),
    ("__cflb", "02DiuF", "Cloudflare Load Balancing"),
    ("BIGipServerpool-web_443", "1342248108.20480.0000", "F5 BIG-IP"),
    ("NSC_wt_xfc-443", "ffffffffc3a0bb0a45525d5f4f58455e445a4a423660", "Citrix NetScaler"),
    ("nlbi_178373", "WoOlfcKr", "Imperva"),
    ("fastroute", TOKEN, FASTROUTE),
    ("anything", TOKEN, FASTROUTE),
]

OTHERS = [
    ("sid", "abc"),
    ("JSESSIONID", "A1B2.node1"),
    ("route", "/home"),
    ("ROUTEID", "17"),
    ("lb", "kg"),
    ("_a1b2c", "GA1.2.345.678"),
    ("_gid", "0f9c1d2e3b4a5968"),
    ("NSC_AAAC", "xyz"),
    ("serverid", "web1"),
    ("XSERVERID", "web1"),
    ("BIGip", "1"),
    ("fastroute", "v1.x"),
    ("token", "v1.abc.def.ghi"),
]


@pytest.mark.parametrize(("name", "value", "product"), KNOWN)
def test_another_balancers_cookie_is_known_by_its_name_and_form(name: str, value: str, product: str) -> None:
    found = foreign(name.encode(), value.encode())
    assert found is not None
    assert found.product == product


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_an_applications_cookie_is_nobodys(name: str, value: str) -> None:
    assert foreign(name.encode(), value.encode()) is None


def test_fields_are_read_as_servers_and_browsers_read_them() -> None:
    assert list(pairs(b'a=1; SRV="s1";;x; =2; empty= ;b = 3')) == [(b"a", b"1"), (b"SRV", b"s1"), (b"b ", b" 3")]
    assert set_pair(b"SERVERID=web1; path=/; Max-Age=60") == (b"SERVERID", b"web1")
    assert set_pair(b"SERVERID=web1; Expires=Wed, 21 Oct 2099 07:28:00 GMT") == (b"SERVERID", b"web1")
    for taken_back in (
        b"SERVERID=; path=/",
        b"SERVERID=web1; Max-Age=0",
        b"SERVERID=web1; max-age=-1; path=/",
        b"SERVERID=web1; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
        b"",
        b"; path=/",
    ):
        assert set_pair(taken_back) is None


def test_a_name_that_is_meant_stands_for_all_cookies_of_its_product() -> None:
    assert is_meant("AWS Application Load Balancer", "AWSALBCORS", ["AWSALB"])
    assert is_meant("F5 BIG-IP", "BIGipServer*", ["BIGipServer*"])
    assert is_meant("HAProxy", "SRV", ["*"])
    assert is_meant(FASTROUTE, "edge", ["edge"])
    assert not is_meant(FASTROUTE, "edge", ["fastroute"])
    assert not is_meant("HAProxy", "SRV", ["AWSALB", "SR"])
    assert not is_meant("HAProxy", "SRV", [])


def seen(side: str, at_s: float, product: str = "HAProxy") -> LayerSeen:
    return LayerSeen("app", side, product, "SERVERID", at_s)


def test_a_layer_is_news_once_a_day() -> None:
    notice = Notice()
    assert notice.tell_layer(seen("servers", 1e9))
    assert not notice.tell_layer(seen("servers", 1e9 + LAYER_AGAIN_S - 1))
    assert notice.tell_layer(seen("servers", 1e9 + LAYER_AGAIN_S))
    assert [one.at_s for one in notice.read()[1].layers] == [1e9 + LAYER_AGAIN_S]
    assert notice.tell_layer(seen("servers", 1e9 - 2 * LAYER_AGAIN_S)), "a clock that was set back hides nothing"


def test_what_servers_set_and_clients_bring_back_is_no_layer_in_front() -> None:
    notice = Notice()
    assert notice.tell_layer(seen("servers", 1e9))
    assert not notice.tell_layer(seen("front", 1e9 + 5))
    assert notice.tell_layer(seen("front", 1e9 + 5, product="F5 BIG-IP"))


def _hold(notice: Notice, held: int, let_go: int) -> None:
    fcntl.lockf(notice._fd, fcntl.LOCK_EX)
    os.write(held, b"+")
    os.read(let_go, 1)


def test_telling_waits_for_no_other_writer() -> None:
    notice = Notice()
    held, let_go = os.pipe(), os.pipe()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(notice, held[1], let_go[0]))
    other.start()
    try:
        assert os.read(held[0], 1) == b"+"
        with pytest.raises(BlockingIOError):
            notice.tell_layer(seen("servers", 1e9))
    finally:
        os.write(let_go[1], b"-")
        other.join()
        for fd in (*held, *let_go):
            os.close(fd)
    assert notice.tell_layer(seen("servers", 1e9))
