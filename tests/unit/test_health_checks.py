"""Checks of one server over real sockets and real processes: what is good, what is bad, and that each one ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import ssl
import sys
import time

import pytest

from fastroute.health.checks import CheckSpec, Outcome, expected, run_check
from fastroute.health.state import HEAVY_BYTES
from tests.support.certificates import make_certificates
from tests.support.loops import settled


@contextlib.asynccontextmanager
async def serving(answer: bytes | None, *, then_close: bool = True):
    """A server that reads a head, says `answer` (None: nothing, ever), and notes what it was asked."""
    asked: list[bytes] = []
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is not None:
                writer.write(answer)
                await writer.drain()
                if then_close:
                    writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await settled()
        for writer in writers:
            writer.transport.abort()


def response(status: int = 200, body: bytes = b"", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


async def http(answer: bytes | None, **keys) -> Outcome:
    async with serving(answer, then_close=keys.pop("then_close", True)) as (address, _):
        return await run_check(CheckSpec("http", **{"timeout_s": 20, **keys}), address)


@pytest.mark.parametrize(
    ("status", "expect", "good"),
    [
        (200, (200, 399), True),
        (399, (200, 399), True),
        (404, (200, 399), False),
        (204, (204,), True),
        (200, (204,), False),
        (250, (200, 204, 206), False),
        (206, (200, 204, 206), True),
        (200, (204, 200), True),
    ],
)
def test_statuses_are_a_range_or_a_list(status, expect, good):
    assert expected(status, expect) is good


async def test_a_head_request_asks_for_what_is_configured_and_is_light():
    async with serving(response(200, b"", "X-Boot: 7")) as (address, asked):
        found = await run_check(CheckSpec("http", path="/live", host="app.example"), address)
    assert (found.ok, found.detail, found.fields["x-boot"]) == (True, "200", "7")
    assert asked[0].startswith(b"HEAD /live HTTP/1.1\r\nHost: app.example\r\n")


@pytest.mark.parametrize(
    ("answer", "keys", "detail"),
    [
        (response(503), {}, "503, which is not expected"),
        (response(200, b"fine"), {"method": "GET", "body": "good"}, "lacks the expected text"),
        (b"", {}, "no whole answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", {}, "no valid answer"),
        (b"HTTP/1.1 200 X\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", {}, "no whole answer"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc", {"method": "GET"}, "no whole answer"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", {"method": "GET"}, "no whole answer"),
        (None, {"timeout_s": 0.05}, "no answer within 0.05 s"),
    ],
    ids=["status", "body", "nothing", "no-http", "long-head", "short", "bad-chunk", "silence"],
)
async def test_an_answer_that_is_not_as_expected_says_why(answer, keys, detail):
    found = await http(answer, **keys)
    assert not found.ok
    assert detail in found.detail


@pytest.mark.parametrize(
    "answer",
    [
        response(200, b"all is well"),
        b"HTTP/1.1 200 X\r\n\r\nall is well",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n4;x=1\r\nall \r\n7\r\nis well\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(200, b"all is well"),
    ],
    ids=["length", "until-close", "chunked", "after-100"],
)
async def test_a_body_is_looked_into_however_it_is_framed(answer):
    found = await http(answer, method="GET", body="is well")
    assert found.ok
    assert found.body == b"all is well"


@pytest.mark.parametrize("framed", [True, False])
async def test_a_large_answer_is_read_no_further_and_told_as_large(framed):
    body = b"x" * (2 * HEAVY_BYTES)
    found = await http(response(200, body) if framed else b"HTTP/1.1 200 X\r\n\r\n" + body, method="GET")
    assert found.ok
    assert found.size_bytes > HEAVY_BYTES
    assert len(found.body) == HEAVY_BYTES


async def test_nobody_listening_is_told_apart_from_silence():
    async with serving(None) as (address, _):
        assert (await run_check(CheckSpec("tcp"), address)).ok
    found = await run_check(CheckSpec("tcp"), address)
    assert (found.ok, found.refused) == (False, True)


async def test_another_port_can_be_asked_and_a_socket(tmp_path: pathlib.Path):
    async with serving(response()) as (address, asked):
        assert (await run_check(CheckSpec("http", port=int(address.split(":")[1])), "127.0.0.1:1")).ok
    assert asked[0].startswith(b"HEAD /healthz HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
    missing = await run_check(CheckSpec("tcp"), f"unix:{tmp_path}/none")
    assert (missing.ok, missing.refused) == (False, True)


async def test_a_plain_server_fails_a_tls_check():
    async with serving(response()) as (address, _):
        assert not (await run_check(CheckSpec("tls", timeout_s=0.3), address)).ok


async def test_a_tls_check_does_a_handshake_and_verifies(tmp_path: pathlib.Path):
    made = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    writers = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    trusting = ssl.create_default_context(cafile=made.ca)
    try:
        good = await run_check(CheckSpec("tls", tls=trusting, timeout_s=20), address)
        stranger = await run_check(CheckSpec("tls", timeout_s=20), address)
        other_name = await run_check(CheckSpec("tls", tls=trusting, tls_name="other.example", timeout_s=20), address)
    finally:
        for writer in writers:
            writer.transport.abort()
        server.close()
    assert (good.ok, good.detail) == (True, "handshake done")
    assert not stranger.ok
    assert stranger.detail.startswith("TLS: ")
    assert not other_name.ok


SAY = [
    sys.executable,
    "-c",
    "import os, sys; print(*sys.argv[1:], os.environ['FASTROUTE_POOL']); sys.exit(int(sys.argv[1]))",
]


@pytest.mark.parametrize(("status", "good"), [(0, True), (3, False)])
async def test_a_command_is_judged_by_its_status_and_gets_to_know_the_server(status, good):
    spec = CheckSpec("command", command=(*SAY, str(status), "{address}", "{host}", "{port}"), timeout_s=20)
    found = await run_check(spec, "127.0.0.1:81", pool="app", server="a")
    assert found.ok is good
    assert found.detail == f"exit status {status}: {status} 127.0.0.1:81 127.0.0.1 81 app"


async def test_a_command_sees_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASTROUTE_SECRET", "do not show me")
    found = await run_check(CheckSpec("command", command=("/usr/bin/env",), timeout_s=20), "127.0.0.1:81")
    assert found.ok
    assert "do not" not in found.detail


async def test_a_command_is_killed_with_its_children_when_its_time_is_over(tmp_path: pathlib.Path):
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new && mv {pids}.new {pids}; wait"
    for timeout_s in (0.5, 20):  # the shell of a busy machine may not have begun when the first is over
        spec = CheckSpec("command", command=("/bin/sh", "-c", script), timeout_s=timeout_s)
        found = await run_check(spec, "127.0.0.1:81")
        assert (found.ok, found.detail) == (False, f"no answer within {timeout_s:g} s")
        if pids.exists():
            break
    end_s = time.monotonic() + 40
    for pid in map(int, pids.read_text().split()):
        while _runs(pid):
            assert time.monotonic() < end_s
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_command_that_is_not_there_fails():
    found = await run_check(CheckSpec("command", command=("/no/such/program",)), "127.0.0.1:81")
    assert not found.ok
    assert "No such file" in found.detail
    assert os.getpid()
