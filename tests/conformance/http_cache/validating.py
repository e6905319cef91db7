"""Conditional requests, 304, invalidation, ranges and stale answers: RFC 9111 sections 4.2.4 to 4.4, RFC 9110 sections
13 and 14, RFC 5861."""

from __future__ import annotations

from tests.conformance.http_cache.wire import At, Case, Reply, Step, ask, case

FRESH, BRIEF = "max-age=3600", "max-age=1"
RUN_OUT_S = 2.2
BODY = b"0123456789" * 20
A, B = '"a"', '"b"'
OLD, MIDDLE, NEW = (f"Wed, 0{day} Jan 2020 00:00:00 GMT" for day in (1, 2, 3))


def _asked(name: str, kind: str, condition: list[tuple[str, str]], status: int, **stored: object) -> Case:
    """A fresh answer and a request with a condition."""
    return case(
        f"conditional/{name}", "9111 4.3.2", kind, ask(cc=FRESH, **stored), ask("hit", fields=condition, status=status)
    )


def _range(
    name: str, kind: str, value: str, status: int, content: bytes, content_range: str | None, **more: object
) -> Case:
    has = [("Content-Range", content_range)] if content_range else []
    lacks = [] if content_range else ["Content-Range"]
    fields = [("Range", value), *more.pop("fields", [])]  # type: ignore[misc]
    return case(
        f"range/{name}", "9110 14.2", kind,
        ask(cc=FRESH, etag=A, lm=OLD, reply=Reply(body=BODY)),
        ask("hit", fields=fields, status=status, content=content, has=has, lacks=lacks, **more),
    )  # fmt: skip


def _updated(
    name: str, clause: str, kind: str, said: list[tuple[str, str | At]], *then: Step, **stored: object
) -> Case:
    """A stale answer, a 304 with these fields, and what is seen then."""
    first = ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S, **stored)
    return case(f"update/{name}", clause, kind, first, ask("validated", reply=Reply(200, said, validates=True)), *then)


def _invalidates(method: str, status: int = 200) -> Case:
    return case(
        f"invalidation/{method} with {status}", "9111 4.4", "must",
        ask(cc=FRESH), ask("miss", method=method, body=b"x", reply=Reply(status)), ask("miss", cc=FRESH),
    )  # fmt: skip


def _not_stale(name: str, clause: str, value: str) -> Case:
    """Stale, and the origin is gone."""
    return case(
        f"stale/{name}", clause, "must",
        ask(cc=value, pause_s=RUN_OUT_S), ask("error", reply=Reply(drop=True)),
    )  # fmt: skip


CASES: list[Case] = [
    # -- the client's condition, answered from what is stored
    _asked("if-none-match, the same", "gain", [("If-None-Match", A)], 304, etag=A),
    _asked("if-none-match, another", "must", [("If-None-Match", B)], 200, etag=A),
    _asked("if-none-match, one of several", "gain", [("If-None-Match", f"{B}, {A}")], 304, etag=A),
    _asked("if-none-match on two lines", "gain", [("If-None-Match", B), ("If-None-Match", A)], 304, etag=A),
    _asked("if-none-match, star", "gain", [("If-None-Match", "*")], 304, etag=A),
    _asked("if-none-match, weak in the request", "gain", [("If-None-Match", f"W/{A}")], 304, etag=A),
    _asked("if-none-match, weak in the store", "gain", [("If-None-Match", A)], 304, etag=f"W/{A}"),
    _asked("if-none-match, a comma within", "must", [("If-None-Match", '"x, y"')], 200, etag='"y"'),
    _asked("if-none-match, without quotes", "must", [("If-None-Match", "b")], 200, etag=A),
    _asked("if-none-match, nothing to compare", "must", [("If-None-Match", A)], 200),
    _asked("if-none-match over if-modified-since", "must",
           [("If-None-Match", B), ("If-Modified-Since", NEW)], 200, etag=A, lm=OLD),
    _asked("if-modified-since, the same", "gain", [("If-Modified-Since", OLD)], 304, lm=OLD),
    _asked("if-modified-since, later", "gain", [("If-Modified-Since", NEW)], 304, lm=OLD),
    _asked("if-modified-since, earlier", "must", [("If-Modified-Since", OLD)], 200, lm=NEW),
    _asked("if-modified-since, no date", "must", [("If-Modified-Since", "yesterday")], 200, lm=OLD),
    _asked("if-modified-since with HEAD", "gain", [("If-Modified-Since", OLD)], 304, lm=OLD),
    case("conditional/304 carries what it must", "9110 15.4.5", "must",
         ask(cc=FRESH, etag=A, r=[("Vary", "Test-A"), ("Content-Location", "/x"), ("Expires", At(3600))]),
         ask("hit", fields=[("If-None-Match", A)], status=304, lacks=["Content-Type"],
             has=[("ETag", A), ("Cache-Control", FRESH), ("Vary", "Test-A"), ("Content-Location", "/x"),
                  ("Expires", None), ("Date", None)])),
    case("conditional/the origin's 304 is the client's, and is not stored", "9111 3", "must",
         ask("any", fields=[("If-None-Match", A)], reply=Reply(304, [("ETag", A), ("Cache-Control", FRESH)]), status=0),
         ask("any", cc=FRESH, status=200)),
    # -- the cache's own condition
    case("validation/by etag", "9111 4.3.1", "gain", ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S),
         ask("validated", etag=A, cc=BRIEF, reply=Reply(validates=True), origin_has=[("If-None-Match", A)])),
    case("validation/by a weak etag", "9111 4.3.1", "gain", ask(cc=BRIEF, etag=f"W/{A}", pause_s=RUN_OUT_S),
         ask("validated", etag=f"W/{A}", reply=Reply(validates=True), origin_has=[("If-None-Match", f"W/{A}")])),
    case("validation/by date", "9111 4.3.1", "gain", ask(cc=BRIEF, lm=OLD, pause_s=RUN_OUT_S),
         ask("validated", lm=OLD, reply=Reply(validates=True), origin_has=[("If-Modified-Since", OLD)])),
    case("validation/by both", "9111 4.3.1", "gain", ask(cc=BRIEF, etag=A, lm=OLD, pause_s=RUN_OUT_S),
         ask("validated", etag=A, reply=Reply(validates=True),
             origin_has=[("If-None-Match", A), ("If-Modified-Since", OLD)])),
    case("validation/of no-cache", "9111 5.2.2.4", "gain", ask(cc="no-cache, max-age=3600", etag=A),
         ask("validated", etag=A, reply=Reply(validates=True))),
    case("validation/of max-age=0", "9111 4.3", "gain", ask(cc="max-age=0", etag=A),
         ask("validated", etag=A, reply=Reply(validates=True))),
    case("validation/a changed answer takes its place", "9111 4.3.3", "must",
         ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S), ask("miss", cc=FRESH, etag=B),
         ask("hit", has=[("ETag", B)], content=b"validation/a changed answer takes its place 1")),
    case("validation/a client with another copy gets the whole", "9111 4.3.3", "must",
         ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S),
         ask("not-hit", fields=[("If-None-Match", B)], etag=A, reply=Reply(validates=True), status=200)),
    case("validation/a client with the same copy gets a 304", "9111 4.3.3", "gain",
         ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S),
         ask("any", fields=[("If-None-Match", A)], etag=A, reply=Reply(validates=True), status=304)),
    case("validation/of the right variant", "9111 4.1", "must",
         ask(cc=BRIEF, etag=A, r=[("Vary", "Test-A")], fields=[("Test-A", "1")]),
         ask("miss", cc=BRIEF, etag=B, r=[("Vary", "Test-A")], fields=[("Test-A", "2")], pause_s=RUN_OUT_S),
         ask("any", fields=[("Test-A", "1")], cc=FRESH, etag=A, r=[("Vary", "Test-A")], status=200,
             reply=Reply(validates=True)),
         ask("any", fields=[("Test-A", "1")], status=200, has=[("ETag", A)])),
    # -- 304 updates what is stored
    _updated("the life begins again", "9111 4.3.4", "gain", [("ETag", A), ("Cache-Control", FRESH)], ask("hit")),
    _updated("a field is replaced", "9111 4.3.4", "must", [("ETag", A), ("Cache-Control", FRESH), ("X-Test", "new")],
             ask("hit", has=[("X-Test", "new")]), r=[("X-Test", "old")]),
    _updated("a field is added", "9111 3.2", "must", [("ETag", A), ("Cache-Control", FRESH), ("X-More", "1")],
             ask("hit", has=[("X-More", "1")])),
    _updated("a field is kept", "9111 4.3.4", "must", [("ETag", A), ("Cache-Control", FRESH)],
             ask("hit", has=[("X-Test", "old"), ("Content-Type", "text/x")]),
             r=[("X-Test", "old"), ("Content-Type", "text/x")]),
    _updated("the length is kept", "9111 3.2", "must", [("ETag", A), ("Cache-Control", FRESH), ("Content-Length", "3")],
             ask("hit", has=[("Content-Length", "200")], content=BODY), reply=Reply(body=BODY)),
    _updated("no hop's fields come in", "9111 3.2", "must",
             [("ETag", A), ("Cache-Control", FRESH), ("Connection", "X-Hop"), ("X-Hop", "1")],
             ask("hit", lacks=["X-Hop"])),
    _updated("no-store ends it", "9111 5.2.2.5", "must", [("ETag", A), ("Cache-Control", "no-store")],
             ask("not-hit", cc="no-store")),
    case("update/the client sees the new fields at once", "9111 4.3.4", "must",
         ask(cc=BRIEF, etag=A, pause_s=RUN_OUT_S),
         ask("validated", cc=FRESH, etag=A, r=[("X-Test", "new")], reply=Reply(validates=True),
             has=[("X-Test", "new")])),
    # -- invalidation
    *(_invalidates(method) for method in ("POST", "PUT", "DELETE", "PATCH", "FOO")),
    _invalidates("POST", 201), _invalidates("POST", 303), _invalidates("DELETE", 204),
    case("invalidation/an error leaves it", "9111 4.4", "gain",
         ask(cc=FRESH), ask("miss", method="POST", body=b"x", reply=Reply(500)), ask("hit")),
    case("invalidation/OPTIONS leaves it", "9111 4.4", "gain",
         ask(cc=FRESH), ask("miss", method="OPTIONS"), ask("hit")),
    case("invalidation/of all variants", "9111 4.4", "must",
         ask(cc=FRESH, r=[("Vary", "Test-A")], fields=[("Test-A", "1")]), ask("miss", method="POST", body=b"x"),
         ask("miss", fields=[("Test-A", "1")], cc=FRESH)),
    case("invalidation/of its own query only", "9111 4.4", "gain",
         ask(cc=FRESH, path="?a=1"), ask("miss", method="POST", body=b"x", path="?a=2"), ask("hit", path="?a=1")),
    # -- ranges of what is stored whole
    _range("first bytes", "gain", "bytes=0-4", 206, b"01234", "bytes 0-4/200"),
    _range("from the middle", "gain", "bytes=195-", 206, b"56789", "bytes 195-199/200"),
    _range("last bytes", "gain", "bytes=-3", 206, b"789", "bytes 197-199/200"),
    _range("last bytes, more than there are", "gain", "bytes=-900", 206, BODY, "bytes 0-199/200"),
    _range("an end beyond the end", "gain", "bytes=198-900", 206, b"89", "bytes 198-199/200"),
    _range("another unit", "gain", "lines=0-1", 200, BODY, None),
    _range("an end before its beginning", "gain", "bytes=5-2", 200, BODY, None),
    _range("no number", "gain", "bytes=a-b", 200, BODY, None),
    _range("if-range, the same", "gain", "bytes=0-4", 206, b"01234", "bytes 0-4/200", fields=[("If-Range", A)]),
    _range("if-range, another", "must", "bytes=0-4", 200, BODY, None, fields=[("If-Range", B)]),
    _range("if-range, weak", "must", "bytes=0-4", 200, BODY, None, fields=[("If-Range", f"W/{A}")]),
    _range("if-range, another date", "must", "bytes=0-4", 200, BODY, None, fields=[("If-Range", MIDDLE)]),
    case("range/beyond the end", "9110 15.5.17", "gain",
         ask(cc=FRESH, reply=Reply(body=BODY)),
         ask("hit", fields=[("Range", "bytes=200-")], status=416, has=[("Content-Range", "bytes */200")])),
    case("range/HEAD knows no ranges", "9110 14.2", "must",
         ask(cc=FRESH, reply=Reply(body=BODY)), ask("hit", method="HEAD", fields=[("Range", "bytes=0-4")], status=200)),
    case("range/a condition that holds comes first", "9110 13.2.2", "must",
         ask(cc=FRESH, etag=A, reply=Reply(body=BODY)),
         ask("hit", fields=[("Range", "bytes=0-4"), ("If-None-Match", A)], status=304)),
    case("range/a part is not the whole", "9111 3.3", "must",
         ask("any", fields=[("Range", "bytes=0-4")], content=None,
             status=0,
             reply=Reply(206, [("Cache-Control", FRESH), ("Content-Range", "bytes 0-4/200")], body=b"01234")),
         ask("any", cc=FRESH, status=200, lacks=["Content-Range"], reply=Reply(body=BODY))),
    case("range/whole to a range", "9110 14.2", "gain",
         ask("any", fields=[("Range", "bytes=0-4")], cc=FRESH, reply=Reply(body=BODY), status=0, content=None),
         ask("hit", content=BODY)),
    # -- stale
    _not_stale("must-revalidate", "9111 5.2.2.2", "max-age=1, must-revalidate"),
    _not_stale("must-revalidate beside stale-if-error", "9111 5.2.2.2", "max-age=1, must-revalidate, stale-if-error=9"),
    _not_stale("proxy-revalidate", "9111 5.2.2.8", "max-age=1, proxy-revalidate"),
    _not_stale("s-maxage", "9111 5.2.2.10", "s-maxage=1"),
    _not_stale("no-cache", "9111 5.2.2.4", "max-age=3600, no-cache"),
    case("stale/stale-if-error, the origin says 500", "5861 4", "gain",
         ask(cc=f"{BRIEF}, stale-if-error=60", pause_s=RUN_OUT_S),
         ask("any", reply=Reply(500), status=200, content=b"stale/stale-if-error, the origin says 500 0")),
    case("stale/stale-if-error, the origin is gone", "5861 4", "gain",
         ask(cc=f"{BRIEF}, stale-if-error=60", pause_s=RUN_OUT_S),
         ask("any", reply=Reply(drop=True), status=200, content=b"stale/stale-if-error, the origin is gone 0")),
    case("stale/stale-if-error, 404 is no such error", "5861 4", "must",
         ask(cc=f"{BRIEF}, stale-if-error=60", pause_s=RUN_OUT_S), ask("miss", reply=Reply(404))),
    case("stale/stale-while-revalidate", "5861 3", "gain",
         ask(cc=f"{BRIEF}, stale-while-revalidate=60", pause_s=RUN_OUT_S),
         ask("any", cc=FRESH, content=b"stale/stale-while-revalidate 0", refreshed=True),
         ask("hit", content=b"stale/stale-while-revalidate 1")),
    case("stale/stale-while-revalidate has an end", "5861 3", "must",
         ask(cc="max-age=1, stale-while-revalidate=1", pause_s=RUN_OUT_S + 1), ask("not-hit")),
]  # fmt: skip
