"""What goes on and what comes back: heads written anew, bodies of any framing, interim responses, several requests."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.relaying import Seen, always, answer, client, configured, echo, proxying, read_request, serving

POST = b"POST /in HTTP/1.1\r\nHost: a.example\r\n"


async def test_a_request_reaches_the_server_with_forwarded_fields_and_without_hop_by_hop_ones() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        status, _, _ = await one.get(
            "/p?q=1",
            "X-First: 1",
            "Connection: keep-alive, X-Named",
            "X-Named: secret",
            "Keep-Alive: timeout=5",
            "TE: gzip",
            "Upgrade: h2c",
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.example",
            "X-Real-IP: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "X-Fastroute: server=evil",
            "Via: 1.0 before",
            "x-Case: KePt",
            "X-Twice: a",
            "X-Twice: b",
        )
    assert status == 200
    assert seen.heads[0].startswith(b"GET /p?q=1 HTTP/1.1\r\nHost: a.example\r\nX-First: 1\r\n")
    assert b"\r\nx-Case: KePt\r\nX-Twice: a\r\nX-Twice: b\r\n" in seen.heads[0]
    assert seen.named("x-forwarded-for") == ["127.0.0.1"]
    assert seen.named("x-forwarded-proto") == ["http"]
    assert seen.named("x-forwarded-host") == ["a.example"]
    assert seen.named("via") == ["1.0 before", "1.1 fastroute"]
    names = {name for name, _ in seen.fields()}
    assert not names & {"connection", "x-named", "keep-alive", "te", "upgrade", "x-real-ip", "forwarded", "x-fastroute"}


async def test_a_trusted_peers_forwarded_fields_are_kept_and_extended() -> None:
    async with serving(echo) as (port, seen):
        config = configured([port], listener='trusted_proxies = ["127.0.0.0/8"]')
        async with proxying(config) as (_, web), client(web) as one:
            await one.get(
                "/", "X-Forwarded-For: 9.9.9.9, 8.8.8.8", "X-Forwarded-Proto: https", "X-Forwarded-Host: b.example"
            )
    assert seen.named("x-forwarded-for") == ["9.9.9.9, 8.8.8.8, 127.0.0.1"]
    assert seen.named("x-forwarded-proto") == ["https"]
    assert seen.named("x-forwarded-host") == ["b.example"]


async def test_an_absolute_target_is_forwarded_in_origin_form() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await one.response()
        one.send(b"GET http://a.example?y HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await one.response()
        one.send(b"OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await one.response()
    assert [head.split(b"\r\n")[0] for head in seen.heads] == [
        b"GET /x?y HTTP/1.1",
        b"GET /?y HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
    ]


async def test_max_forwards_is_counted_down_and_ends_here_at_zero() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"OPTIONS /a HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 5\r\n\r\n")
        assert (await one.response())[0] == 200
        one.send(b"OPTIONS /b HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n")
        assert (await one.response())[0] == 200
        one.send(b"TRACE / HTTP/1.1\r\nHost: a.example\r\nCookie: s=1\r\n\r\n")
        assert (await one.response())[0] == 501
    assert len(seen.heads) == 1
    assert seen.named("max-forwards") == ["4"]


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000, 4_000_000])
async def test_a_body_with_a_length_comes_back_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size] or b"x"
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(POST, b"Content-Length: %d\r\n\r\n" % len(body), body)
        status, fields, back = await one.response()
        assert (status, fields["content-length"]) == (200, str(len(body)))
        assert back == seen.bodies[0] == body
        assert seen.named("transfer-encoding") == []
        assert (await one.get())[0] == 200
    assert seen.connections == 1


async def test_a_chunked_request_is_framed_anew_without_extensions_and_trailers() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(POST, b"Transfer-Encoding: chunked\r\n\r\n")
        one.send(b'5;a="b;c"\r\nhel')
        await asyncio.sleep(0)
        one.send(b"lo\r\n00000001\r\n!\r\n0;x\r\nX-Trailer: 1\r\n\r\n")
        status, _, body = await one.response()
        assert (status, body) == (200, b"hello!")
        assert (await one.get())[0] == 200
    assert seen.bodies[0] == b"hello!"
    assert seen.named("transfer-encoding", 0) == ["chunked"]
    assert seen.named("x-trailer", 0) == []


async def test_megabytes_of_small_chunks_arrive_in_both_directions() -> None:
    chunks = [bytes([n % 256]) * (n % 3000 + 1) for n in range(1500)]
    whole = b"".join(chunks)

    async def chunked(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            writer.write(b"%x;e=1\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        writer.write(b"0\r\nX-T: 1\r\n\r\n")
        await writer.drain()

    async with serving(chunked) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(POST, b"Transfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            one.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await one.writer.drain()
        one.send(b"0\r\n\r\n")
        status, fields, body = await one.response()
    assert (status, fields["transfer-encoding"]) == (200, "chunked")
    assert body == whole
    assert seen.bodies[0] == whole


async def test_a_response_that_ends_with_its_connection_is_chunked_for_a_client_of_1_1() -> None:
    handler = always(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)
    async with serving(handler) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        for _ in range(2):
            status, fields, body = await one.get()
            assert (status, fields["transfer-encoding"], body) == (200, "chunked", b"until the end")


async def test_a_client_of_1_0_gets_no_chunks_and_no_second_request() -> None:
    handler = always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    async with serving(handler) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n")
        raw = await one.rest()
    assert raw.endswith(b"\r\n\r\nhello")
    assert b"\r\nConnection: close\r\n" in raw
    assert b"chunked" not in raw
    assert seen.named("via") == ["1.0 fastroute"]


async def test_head_204_and_304_have_no_body_whatever_their_heads_say() -> None:
    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(seen, reader)
            if head.startswith(b"HEAD "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            elif b"/304" in head:
                writer.write(b"HTTP/1.1 304 X\r\nContent-Length: 5\r\nETag: x\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 204 X\r\n\r\n")

    async with serving(handle) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for path, status, length in (("/304", 304, "5"), ("/204", 204, None)):
            one.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            found, fields = await one.head()
            assert (found, fields.get("content-length"), "transfer-encoding" in fields) == (status, length, False)
        one.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        found, fields = await one.head()
        assert (found, fields["content-length"]) == (200, "5")
        one.send(b"GET /204 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await one.head())[0] == 204
    assert seen.connections == 1


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 205 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"HTTP/1.1 205 X\r\nContent-Length: 2\r\n\r\nno", b"no"),
    ],
    ids=["length", "chunks", "a body that should not be there"],
)
async def test_a_205_is_framed_as_any_other_response_and_the_next_answer_is_its_own(said: bytes, body: bytes) -> None:
    """RFC 9112, 6.3: 205 is not one of those that end with their heads, whatever RFC 9110 says of its content."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(seen, reader)
            writer.write(said if b"/205" in head else answer(b"next"))

    async with serving(handle) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for _ in range(2):
            assert (await one.get("/205"))[::2] == (205, body)
            assert (await one.get("/next"))[::2] == (200, b"next")
    assert seen.connections == 1


async def test_interim_responses_are_forwarded_but_not_to_a_client_of_1_0() -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 3\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + answer(
        b"hello"
    )
    async with serving(always(raw)) as (port, _), proxying(configured([port])) as (_, web):
        async with client(web) as one:
            one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, fields = await one.head()
            assert (status, fields) == (103, {"link": "</a>"})
            assert (await one.head())[0] == 102
            assert (await one.response())[::2] == (200, b"hello")
        async with client(web) as one:
            one.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            assert (await one.response())[::2] == (200, b"hello")


async def test_expect_100_continue_goes_to_the_server_and_its_consent_comes_back() -> None:
    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue\r\n" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen.bodies.append(await reader.readexactly(5))
        writer.write(answer(b"done"))
        await writer.drain()

    async with serving(handle) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(POST, b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await one.head())[0] == 100
        one.send(b"hello")
        assert (await one.response())[::2] == (200, b"done")
    assert seen.bodies == [b"hello"]


async def test_a_final_answer_before_the_body_ends_both_connections_safely() -> None:
    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"no", 403))
        await writer.drain()
        await seen.go.wait()

    async with serving(handle) as (port, seen), proxying(configured([port])) as (proxy, web):
        async with client(web) as one:
            one.send(POST, b"Content-Length: 1000000\r\n\r\n", b"x" * 1000)
            status, fields, body = await one.response()
            assert (status, body, fields["connection"]) == (403, b"no", "close")
            one.send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await one.rest() == b""
        seen.go.set()
    assert seen.heads == []
    assert proxy.statistics()["requests"] == 1


async def test_pipelined_requests_are_answered_in_order_over_one_connection() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for n in range(50):
            body = b"body %d" % n
            one.send(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (n, len(body), body))
        for n in range(50):
            assert (await one.response())[2] == b"body %d" % n
    assert [head.split(b" ")[1] for head in seen.heads] == [b"/%d" % n for n in range(50)]
    assert seen.connections == 1


async def test_a_half_closed_client_still_gets_its_answers() -> None:
    async with serving(echo) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        one.writer.write_eof()
        assert b"GET /1" in (await one.response())[2]
        assert b"GET /2" in (await one.response())[2]
        assert await one.rest() == b""


async def test_every_way_of_cutting_a_request_in_two_gives_the_same_request() -> None:
    raw = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for at in range(1, len(raw)):
            one.send(raw[:at])
            await one.writer.drain()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            one.send(raw[at:])
            assert (await one.response())[2] == b"hello"
    assert len(set(seen.heads)) == 1
    assert set(seen.bodies) == {b"hello"}


async def test_a_servers_response_is_written_anew_with_its_fields_in_order() -> None:
    raw = (
        b"HTTP/1.1 200 Fine\r\nX-B: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Set-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\nx-a:   caf\xe9  \r\nContent-Length: 2\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\n\r\nok"
    )
    async with serving(always(raw)) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await one.rest()
    assert got == (
        b"HTTP/1.1 200 Fine\r\nX-B: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nx-a: caf\xe9\r\nContent-Length: 2\r\n"
        b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nConnection: close\r\n\r\nok"
    )
