"""A response that is complete, and on its way to a slow store: whoever asks in between is answered from it, however he
asks."""

from __future__ import annotations

import pytest

from tests.support.caching import far_store

FRESH = "Cache-Control: max-age=60"


@pytest.mark.parametrize("more", [[], ["Vary: X-Of"], ['Cache-Groups: "g"']], ids=["plainly", "varying", "in a group"])
@pytest.mark.parametrize(
    ("method", "fields", "status", "body"),
    [
        ("GET", "", 200, b"0123456789"),
        ("GET", "Range: bytes=2-4\r\n", 206, b"234"),
        ("GET", 'If-None-Match: "a"\r\n', 304, b""),
        ("HEAD", "", 200, b""),
    ],
    ids=["plain", "range", "conditional", "HEAD"],
)
async def test_a_complete_response_answers_while_the_store_still_takes_it(store, more, method, fields, status, body):
    async with far_store(store) as (server, way, one):
        server.page("/a", "0123456789", FRESH, 'ETag: "a"', *more)
        way.set("delay", 0.1)
        assert (await one.get("/a"))[2] == b"0123456789"
        one.send(f"{method} /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n".encode())
        found, answer = await one.head()
        content = b"" if method == "HEAD" or found == 304 else await one.body(answer)
        assert (found, content, server.count("/a")) == (status, body, 1)


async def test_a_request_for_a_new_answer_gets_one_while_the_store_still_takes_the_old(store):
    async with far_store(store) as (server, way, one):
        server.page("/a", "old", FRESH)
        way.set("delay", 0.1)
        await one.get("/a")
        server.page("/a", "new", FRESH)
        one.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\nCache-Control: no-cache\r\n\r\n")
        assert (await one.response())[2] == b"new"
