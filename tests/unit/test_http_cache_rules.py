"""The rules of the HTTP cache, as tables: what is stored, for how long, what answers what."""

from __future__ import annotations

from email.utils import formatdate
from types import SimpleNamespace

import pytest

from fastroute._core.http_caching import ASKS, BYPASS, cache_key
from fastroute._core.http_stored import Stored
from fastroute.http_cache.fields import (
    DELTA_S_MAX,
    directives,
    entity_tags,
    list_items,
    parse_date_s,
    parse_delta_s,
    targeted,
)
from fastroute.http_cache.invalidating import invalidated_groups, invalidated_keys, is_unsafe, tags_of
from fastroute.http_cache.keys import resolve, url_key
from fastroute.http_cache.ranges import UNSATISFIABLE, byte_range
from fastroute.http_cache.reuse import Reuse, decide, if_range_holds, may_fail_to, not_modified, wants_of
from fastroute.http_cache.stored import EXTENSIONS, freshened, keep_ms, make_stored, softened
from fastroute.http_cache.storing import Defaults, Terms, age_s, judge_response
from fastroute.http_cache.variants import Variants, vary_names

NOW_S = 1_700_000_000.0


def at(seconds: float) -> str:
    return formatdate(NOW_S + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max-age=60", {"max-age": "60"}),
        ("MaX-aGe=60 , public", {"max-age": "60", "public": None}),
        ('a="max-age=1, x", max-age=2', {"a": "max-age=1, x", "max-age": "2"}),
        ("max-age =60", {}),
        ("max-age= 60", {"max-age": " 60"}),
        ("max-age=1, max-age=2", {"max-age": "1"}),
        ('private="a", private', {"private": None}),
        ('no-cache="a", no-cache="b"', {"no-cache": "a,b"}),
        (",, ,", {}),
        ('x="a\\"b"', {"x": 'a"b'}),
    ],
)
def test_directives_are_read_as_a_list_of_names_and_values(text, found):
    assert directives([text]) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max-age=60", {"max-age": "60"}),
        ("max-age=60, must-revalidate, x=?0", {"max-age": "60", "must-revalidate": None}),
        ("max-age=60;a=1, foo", {"max-age": "60", "foo": None}),
        ("MaX-aGe=60", None),
        ("max-age=60, &&&", None),
        ('max-age="60"', None),
        ("max-age", None),
        ("max-age =60", None),
        ("max-age= 60", None),
        ("max-age=60,", None),
        ("max-age=1.5", None),
        ("", None),
    ],
)
def test_a_targeted_field_counts_only_where_it_is_a_structured_field(text, found):
    assert targeted([text]) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("060", 60),
        ("99999999999", DELTA_S_MAX),
        ("-1", -1),
        ("1.0", -1),
        ("a", -1),
        ("", -1),
        (None, -1),
        ("١", -1),
    ],
)
def test_a_number_of_seconds_is_digits_and_bounded(text, seconds):
    assert parse_delta_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("SUN, 06 NOV 1994 08:49:37 gmt", 784111777),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 94 08:49:37 GMT", None),
        ("Sun 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06  Nov  1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 8:49:37 GMT", None),
        ("0", None),
        ("", None),
    ],
)
def test_dates_have_three_forms(text, seconds):
    assert parse_date_s(text, NOW_S) == seconds


@pytest.mark.parametrize(
    ("lines", "age"),
    [
        ([], 0),
        ([("age", "30")], 30),
        ([("date", at(-100))], 100),
        ([("date", at(-100)), ("age", "130")], 130),
        ([("date", at(100)), ("age", "5")], 5),
        ([("age", "abc")], DELTA_S_MAX),
        ([("age", "-1")], DELTA_S_MAX),
        ([("age", "0"), ("age", "7200")], DELTA_S_MAX),
        ([("age", "0, 0")], DELTA_S_MAX),
    ],
)
def test_age_counts_dates_and_doubts(lines, age):
    assert age_s(lines, NOW_S, 0.0) == age


@pytest.mark.parametrize(
    ("lines", "lifetime"),
    [
        ([("cache-control", "max-age=60")], 60),
        ([("cache-control", "max-age=60, s-maxage=10")], 10),
        ([("cache-control", 'max-age="60"')], 60),
        ([("expires", at(60)), ("date", at(0))], 60),
        ([("cache-control", "max-age=10"), ("expires", at(60))], 10),
        ([("cache-control", "max-age=10"), ("expires", "0")], 10),
        ([("cache-control", "max-age=10"), ("cdn-cache-control", "max-age=60")], 60),
        ([("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")], 60),
        ([("expires", at(-60)), ("cdn-cache-control", "max-age=60")], 60),
        ([("cache-control", "max-age=60"), ("cdn-cache-control", "&&")], 60),
        ([("cache-control", "no-store, must-understand, max-age=60")], 60),
        ([("cache-control", "max-age=99999999999")], DELTA_S_MAX),
    ],
)
def test_the_first_source_of_freshness_counts(lines, lifetime):
    terms = judge_response(200, lines, response_s=NOW_S)
    assert (terms.refused, terms.lifetime_s) == ("", lifetime)


@pytest.mark.parametrize(
    ("status", "lines", "authorization", "why"),
    [
        (200, [], False, "no-freshness"),
        (200, [("last-modified", at(-1000))], False, "no-freshness"),
        (200, [("cache-control", "public")], False, "no-freshness"),
        (200, [("cache-control", "max-age=60, no-store")], False, "no-store"),
        (200, [("cache-control", "max-age=60, No-StOrE")], False, "no-store"),
        (200, [("cache-control", "max-age=60, private")], False, "private"),
        (200, [("cache-control", "max-age=60"), ("cdn-cache-control", "private")], False, "private"),
        (200, [("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")], False, "no-store"),
        (200, [("cache-control", "max-age=60"), ("vary", "a, *")], False, "vary"),
        (200, [("cache-control", "max-age=60"), ("set-cookie", "a=b")], False, "set-cookie"),
        (200, [("cache-control", "max-age=60")], True, "authorization"),
        (200, [("expires", at(60))], True, "authorization"),
        (206, [("cache-control", "max-age=60")], False, "status"),
        (304, [("cache-control", "max-age=60")], False, "status"),
        (299, [("cache-control", "max-age=60, must-understand")], False, "must-understand"),
        (404, [], False, "no-freshness"),
        (400, [("etag", '"x"')], False, "no-freshness"),
        (200, [("cache-control", "max-age=0")], False, "stale"),
        (200, [("cache-control", "max-age='60'")], False, "stale"),
        (200, [("cache-control", "max-age=-60")], False, "stale"),
        (200, [("expires", "0")], False, "stale"),
        (200, [("cache-control", "max-age=60"), ("age", "90")], False, "stale"),
        (200, [("cache-control", "no-cache, max-age=60")], False, "stale"),
    ],
)
def test_what_is_not_stored_and_why(status, lines, authorization, why):
    assert judge_response(status, lines, response_s=NOW_S, authorization=authorization).refused == why


@pytest.mark.parametrize("status", [200, 203, 204, 299, 301, 302, 307, 308, 400, 404, 410, 499, 500, 503, 599])
def test_every_final_status_is_stored_with_explicit_freshness(status):
    assert not judge_response(status, [("cache-control", "max-age=60")], response_s=NOW_S).refused


@pytest.mark.parametrize("more", ["public", "must-revalidate", "s-maxage=60"])
def test_authorization_is_stored_where_the_response_allows_it(more):
    lines = [("cache-control", f"max-age=60, {more}")]
    assert not judge_response(200, lines, response_s=NOW_S, authorization=True).refused


@pytest.mark.parametrize("cc", ["must-revalidate", "proxy-revalidate", "s-maxage=1", "no-cache"])
def test_what_forbids_stale_leaves_no_time_for_it(cc):
    lines = [("cache-control", f"max-age=1, stale-if-error=60, stale-while-revalidate=60, {cc}"), ("etag", '"x"')]
    defaults = Defaults(stale_while_revalidate_s=60, stale_if_error_s=60)
    terms = judge_response(200, lines, response_s=NOW_S, defaults=defaults)
    assert terms.must_revalidate
    assert (terms.stale_while_revalidate_s, terms.stale_if_error_s) == (0, 0)


def test_heuristics_only_where_they_are_configured():
    lines = [("last-modified", at(-1000)), ("date", at(0))]
    assert judge_response(200, lines, response_s=NOW_S, defaults=Defaults(heuristic=True)).lifetime_s == 100
    assert judge_response(201, lines, response_s=NOW_S, defaults=Defaults(heuristic=True)).refused


def test_fields_that_are_named_private_or_no_cache_are_left_out():
    lines = [("cache-control", 'max-age=60, no-cache="a, set-cookie", private="B"'), ("set-cookie", "x=y")]
    terms = judge_response(200, lines, response_s=NOW_S)
    assert (terms.refused, terms.omit) == ("", {"a", "b", "set-cookie"})
    made = make_stored(
        200,
        "OK",
        (("A", "1"), ("b", "2"), ("C", "3"), ("Set-Cookie", "x=y"), ("Age", "7")),
        b"",
        terms,
        response_s=NOW_S,
    )
    assert [name for name, _ in made.fields] == ["C", "Date"]


def stored(**of):
    base = {
        "born_ms": 0,
        "lifetime_ms": 60_000,
        "stale_while_revalidate_ms": 0,
        "stale_if_error_ms": 0,
        "no_cache": False,
        "must_revalidate": False,
    }
    return SimpleNamespace(**(base | of))


SWR = {"stale_while_revalidate_ms": 10_000}


@pytest.mark.parametrize(
    ("of", "cc", "now_s", "found"),
    [
        ({}, "", 59, Reuse.FRESH),
        ({}, "", 60, Reuse.VALIDATE),
        (SWR, "", 69, Reuse.STALE),
        (SWR, "", 70, Reuse.VALIDATE),
        (SWR, "min-fresh=1", 61, Reuse.VALIDATE),
        ({}, "max-age=0", 0, Reuse.VALIDATE),
        ({}, "max-age=30", 29, Reuse.FRESH),
        ({}, "max-age=30", 30, Reuse.VALIDATE),
        ({}, "min-fresh=30", 30, Reuse.FRESH),
        ({}, "min-fresh=30", 31, Reuse.VALIDATE),
        ({}, "max-stale", 1000, Reuse.ALLOWED),
        ({}, "max-stale=10", 69, Reuse.ALLOWED),
        ({}, "max-stale=10", 70, Reuse.VALIDATE),
        ({"must_revalidate": True}, "max-stale", 61, Reuse.VALIDATE),
        ({"no_cache": True}, "max-stale", 1, Reuse.VALIDATE),
        ({}, "no-cache", 1, Reuse.VALIDATE),
        ({"born_ms": 5_000}, "", 1, Reuse.FRESH),
    ],
)
def test_what_a_stored_response_is_good_for(of, cc, now_s, found):
    wants = wants_of([("cache-control", cc)] if cc else [])
    assert decide(stored(**of), wants, now_s * 1000) is found


def test_pragma_counts_where_there_is_no_cache_control():
    assert wants_of([("pragma", "no-cache")]).no_cache
    assert not wants_of([("pragma", "no-cache"), ("cache-control", "max-age=9")]).no_cache


def test_a_failing_server_is_stood_in_for_within_bounds():
    assert may_fail_to(stored(), 59_000)
    assert not may_fail_to(stored(), 61_000)
    assert may_fail_to(stored(stale_if_error_ms=5_000), 64_000)
    assert may_fail_to(stored(), 61_000, down_ms=5_000)
    assert not may_fail_to(stored(must_revalidate=True), 61_000, down_ms=5_000)
    assert not may_fail_to(stored(no_cache=True), 1_000)


RESPONSE = [("etag", '"a"'), ("last-modified", at(-100)), ("date", at(0))]


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ([], None),
        ([("if-none-match", '"a"')], True),
        ([("if-none-match", 'W/"a"')], True),
        ([("if-none-match", '"b", "a"')], True),
        ([("if-none-match", '"b"'), ("if-none-match", '"a"')], True),
        ([("if-none-match", "*")], True),
        ([("if-none-match", '"b"')], False),
        ([("if-none-match", "a")], False),
        ([("if-none-match", '"b"'), ("if-modified-since", at(0))], False),
        ([("if-modified-since", at(-100))], True),
        ([("if-modified-since", at(-101))], False),
        ([("if-modified-since", "yesterday")], False),
    ],
)
def test_conditions_of_clients(request_, found):
    assert not_modified(request_, RESPONSE, 200) is found


def test_a_condition_does_not_make_a_304_of_an_error():
    assert not_modified([("if-none-match", "*")], RESPONSE, 404) is False


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"a"', True),
        ('W/"a"', False),
        ('"b"', False),
        (at(-100), True),
        (at(-99), False),
    ],
)
def test_if_range_matches_strongly(text, found):
    assert if_range_holds([("if-range", text)], RESPONSE) is found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=0-1", (0, 2)),
        ("bytes=1-", (1, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-99", (5, 10)),
        ("bytes=10-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
        ("bytes=3-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_one_range_of_bytes(text, found):
    assert byte_range(text, 10) == found


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["Foo, bar"], ("bar", "foo")),
        (["Foo", "foo"], ("foo",)),
        (["*"], None),
        (["", "*"], None),
        (["Foo, *"], None),
        ([], ()),
    ],
)
def test_vary_names(lines, names):
    assert vary_names([("vary", line) for line in lines]) == names


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([("foo", "1,2")], [("foo", "1, 2")], True),
        ([("foo", "1, 2")], [("foo", "1"), ("foo", "2")], True),
        ([("foo", "2, 1")], [("foo", "1, 2")], False),
        ([("foo", "")], [], False),
        ([("other", "1")], [], True),
        ([("accept-language", "en, de")], [("accept-language", "DE,en")], True),
        ([("accept-language", "en;q=0.5, de")], [("accept-language", "de, en;q=0.5")], True),
        ([("accept-language", "en;q=0.5, de")], [("accept-language", "en, de;q=0.5")], False),
    ],
)
def test_variants_meet_where_their_fields_mean_the_same(one, other, same):
    variants = Variants(("accept-language", "foo"), b"12345678")
    assert (variants.key_of("k", one) == variants.key_of("k", other)) is same
    assert variants.key_of("k", one) != Variants(variants.names, b"87654321").key_of("k", one)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://A.example", "http://a.example/"),
        ("HTTP://a.example:80/X?y#z", "http://a.example/X?y"),
        ("https://a.example:443?q", "https://a.example/?q"),
        ("https://a.example:80/", "https://a.example:80/"),
        ("ftp://a.example/", None),
        ("/path", None),
        ("http://u@a.example/", None),
    ],
)
def test_urls_are_called_what_requests_are_called(url, key):
    assert url_key(url) == key


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("/b", "http://a.example/b"),
        ("b", "http://a.example/x/b"),
        ("../b", "http://a.example/b"),
        ("./b/../c?d=..", "http://a.example/x/c?d=.."),
        ("?q", "http://a.example/x/y?q"),
        ("http://a.example:80/z", "http://a.example/z"),
        ("//a.example/z", "http://a.example/z"),
        ("http://b.example/z", None),
        ("https://a.example/z", None),
        ("http://a.example.evil/z", None),
    ],
)
def test_references_are_resolved_within_their_origin(reference, key):
    assert resolve("http://a.example/x/y?1", reference) == key


def test_unsafe_requests_invalidate_when_they_succeed():
    lines = [("location", "/new"), ("content-location", "http://b.example/x")]
    assert invalidated_keys("http://a.example/x", 201, lines) == ["http://a.example/x", "http://a.example/new"]
    assert invalidated_keys("http://a.example/x", 500, lines) == []
    assert is_unsafe("M-SEARCH")
    assert is_unsafe("POST")
    assert not is_unsafe("GET")
    assert not is_unsafe("PROPFIND")


def test_groups_belong_to_their_origin_and_need_a_well_formed_list():
    assert invalidated_groups("http://a.example/x", True, 200, [("cache-group-invalidation", '"a", "b";x=1')]) == [
        "group http://a.example a",
        "group http://a.example b",
    ]
    assert invalidated_groups("http://a.example/x", True, 200, [("cache-group-invalidation", '"a", b')]) == []
    assert invalidated_groups("http://a.example/x", False, 200, [("cache-group-invalidation", '"a"')]) == []


def test_tags_are_words_and_lists():
    lines = [("surrogate-key", "a  b"), ("cache-tag", "b, c d"), ("cache-groups", '"g"')]
    assert tags_of("http://h/x", lines) == ["group http://h g", "tag g", "tag a", "tag b", "tag c d"]
    groups = ", ".join(f'"{"g" * 29}{n:03}"' for n in range(32))  # what RFC 9875, 2.1 asks for at least
    assert len(tags_of("http://h/x", [("cache-groups", groups)])) == 64
    assert tags_of("http://h/x", [("cache-groups", groups), ("cache-tag", "one")]) is None
    assert tags_of("http://h/x", [("surrogate-key", " ".join(map(str, range(65))))]) is None


def full(lines, body=b"hello", terms=Terms(lifetime_s=60)):  # noqa: B008
    return make_stored(200, "OK", tuple(lines), body, terms, response_s=NOW_S)


def test_a_304_updates_fields_but_those_of_the_body():
    old = full([("ETag", '"a"'), ("X", "1"), ("X", "2"), ("Content-Encoding", "gzip"), ("Cache-Control", "max-age=1")])
    news = (
        ("X", "3"),
        ("Content-Encoding", "br"),
        ("Content-Length", "9"),
        ("Cache-Control", "max-age=90"),
        ("Y", "4"),
    )
    made, terms = freshened(old, news, response_s=NOW_S + 30, delay_s=0, authorization=False, defaults=Defaults())
    assert (terms.lifetime_s, terms.age_s, made.body) == (90, 0, b"hello")
    assert dict(made.fields) == {
        "ETag": '"a"',
        "X": "3",
        "Content-Encoding": "gzip",
        "Cache-Control": "max-age=90",
        "Y": "4",
        "Date": at(30),
    }
    assert made.number != old.number


def test_stored_responses_survive_the_store():
    old = full([("Ä", "ö")], body=bytes(range(256)))
    extension = EXTENSIONS[0]
    new = extension.unpack(extension.pack(old))
    for name in ("status", "reason", "fields", "body", "head", "number", "born_ms", "made_ms", "lifetime_ms"):
        assert getattr(new, name) == getattr(old, name)
    assert isinstance(new, Stored)


def test_a_soft_purge_makes_stale_and_begins_the_time_of_staleness():
    old = full([], terms=Terms(lifetime_s=600, stale_while_revalidate_s=60))
    now_ms = round(NOW_S * 1000) + 5_000
    new = softened(old, now_ms)
    assert decide(old, wants_of([]), now_ms) is Reuse.FRESH
    assert decide(new, wants_of([]), now_ms) is Reuse.STALE
    assert keep_ms(new, now_ms) == 60_000


def test_what_may_be_confirmed_is_kept_beyond_its_end():
    now_ms = round(NOW_S * 1000)
    assert keep_ms(full([]), now_ms, 600_000) == 60_000
    assert keep_ms(full([("ETag", '"a"')]), now_ms, 600_000) == 660_000


@pytest.mark.parametrize(
    ("lines", "key", "asks"),
    [
        ("", "http://a.example/x?y", 0),
        ("Cookie: a=b\r\n", "http://a.example/x?y", 0),
        ("Cache-Control: no-cache\r\n", "http://a.example/x?y", ASKS),
        ("If-None-Match: x\r\n", "http://a.example/x?y", ASKS),
        ("If-Modified-Since: x\r\n", "http://a.example/x?y", ASKS),
        ("Range: bytes=0-1\r\n", "http://a.example/x?y", ASKS),
        ("Pragma: no-cache\r\n", "http://a.example/x?y", ASKS),
        ("X-Original-URL: /\r\n", None, BYPASS),
        ("X-Rewrite-URL: /\r\n", None, BYPASS),
        ("X-HTTP-Method-Override: PUT\r\n", None, BYPASS),
        ("X-HTTP-Method: PUT\r\n", None, BYPASS),
        ("X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n", "http://a.example/x?y", 0),
    ],
)
def test_the_key_of_a_request(lines, key, asks):
    head = f"GET /x?y HTTP/1.1\r\nHost: A.example:80\r\n{lines}\r\n".encode()
    assert cache_key(head) == (key, asks)


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("X-Forwarded-Proto: https\r\n", "https://a.example/x"),
        ("X-Forwarded-Proto: gopher\r\n", None),
        ("X-Forwarded-Host: a.example\r\n", "http://a.example/x"),
        ("X-Forwarded-Host: b.example\r\n", "http://a.example/x\nX-Forwarded-Host:b.example"),
        ("X-Forwarded-Port: 443\r\n", "http://a.example/x"),
        ("X-Forwarded-Prefix: /p\r\n", "http://a.example/x\nX-Forwarded-Prefix:/p"),
        ("X-Forwarded-For: 1.2.3.4\r\n", "http://a.example/x"),
    ],
)
def test_what_trusted_peers_say_and_servers_believe_is_part_of_the_key(lines, key):
    head = f"GET /x HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n".encode()
    assert cache_key(head, trusted=True)[0] == key


def test_lists_and_tags():
    assert list_items(['a, "b, c" ,, d', "e"]) == ["a", '"b, c"', "d", "e"]
    assert entity_tags('"a", W/"b"') == ['"a"', 'W/"b"']
    assert entity_tags("a") is None
