"""A case of HTTP caching on the wire: what a client asks, what the origin answers, what the cache between may do.

Case      a list of steps with a name, the clause that it is about, and how binding it is.
Step      one request of the client, the origin's answer should it be asked, and what has to be seen.
Origin    the scripted origin: answers each step of each case as the step says, and remembers what it was asked.
play      one case against a cache: "" when all was as it should be, else what was not.
play_all  many at once, so that their pauses overlap.

Requests carry `Test-Step`, and answers of the origin `Origin-Step`, the step they were made for: an answer with an
older one came from the cache. The path is new for each case and run. With several replicas the steps go to one after
the other. Nothing here knows a product.
"""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import itertools
import time
from collections.abc import Sequence

from tests.support.loops import settled

__all__ = ["At", "Case", "Origin", "Reply", "Step", "ask", "case", "play", "play_all"]

ANSWER_S_MAX = 30.0
AT_ONCE = 48

PUSH_S = 0.4
"""With several replicas: what one has replaced the others still have near until they are told. What an unsafe request
made unusable is so at once: nothing is waited for after those."""

SETTLING_ROUNDS, SETTLING_TRIES = 2, 4
"""An answer is stored a moment after its last byte. It is when others are, that were asked for later: two rounds, since
one answer can take more steps than another (a tag, a second key); and so many tries to find one stored."""


@dataclasses.dataclass(frozen=True)
class At:
    """A field's value: the HTTP date this many seconds from the moment of the answer."""

    seconds: int


Fields = Sequence[tuple[str, "str | At"]]


@dataclasses.dataclass(frozen=True)
class Reply:
    """The origin's answer.

    Attributes:
        status, fields, body: as sent; the body None is the case's name and step. No Date of its own is added twice.
        cut: the connection ends before the body is complete.
        drop: no answer at all, the connection ends.
        chunked: transfer coding in place of Content-Length.
        interim: fields of a 103 that is sent first.
        validates: 304 in place of this answer where the request carries the ETag or date of the step before.
    """

    status: int = 200
    fields: Fields = ()
    body: bytes | None = None
    cut: bool = False
    drop: bool = False
    chunked: bool = False
    interim: Fields = ()
    validates: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """One request.

    Attributes:
        method, fields, body, path, host, version: of the request; `path` is put behind the case's own.
        reply: the origin's answer.
        sees: "hit" (an older answer, the origin not asked), "miss" (the answer of this step), "validated" (an older
            answer, after the origin said 304), "not-hit" (miss or validated), "error" (5xx), "any".
        status: of the answer; by default the reply's, or of what was stored. 0: any.
        has: fields of the answer; a value None: whatever it is. An integer: at least so much.
        lacks: fields that it must not have.
        content: its body.
        origin_has, origin_lacks: fields of the request as the origin saw it.
        pause_s: after the answer.
        refreshed: what comes next waits until the origin has answered this step's request, behind the client's back.
    """

    method: str = "GET"
    fields: Fields = ()
    body: bytes = b""
    path: str = ""
    host: str = "cache.test"
    version: str = "HTTP/1.1"
    reply: Reply = Reply()
    sees: str = "miss"
    status: int | None = None
    has: Sequence[tuple[str, str | int | None]] = ()
    lacks: Sequence[str] = ()
    content: bytes | None = None
    origin_has: Sequence[tuple[str, str | None]] = ()
    origin_lacks: Sequence[str] = ()
    pause_s: float = 0.0
    refreshed: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """Steps, one after the other.

    Attributes:
        name: "group/claim".
        clause: of the RFC that it is about.
        kind: "must" (a cache that fails it is wrong), "gain" (one that fails it asks its origin more often than it
            needs to), "ours" (a decision of this product).
    """

    name: str
    clause: str
    kind: str
    steps: tuple[Step, ...]


def ask(sees: str = "miss", **options: object) -> Step:
    """A Step, `reply`'s fields in short: cc= and etag= and lm= are its Cache-Control, ETag and Last-Modified."""
    short = {"cc": "Cache-Control", "etag": "ETag", "lm": "Last-Modified", "expires": "Expires", "age": "Age"}
    reply = options.pop("reply", Reply())
    assert isinstance(reply, Reply)
    fields = list(reply.fields)
    for name, field in short.items():
        if name in options:
            fields.append((field, options.pop(name)))  # type: ignore[arg-type]
    if "r" in options:
        fields += options.pop("r")  # type: ignore[operator]
    return Step(sees=sees, reply=dataclasses.replace(reply, fields=tuple(fields)), **options)  # type: ignore[arg-type]


def case(name: str, clause: str, kind: str, *steps: Step) -> Case:
    """A Case."""
    return Case(name, clause, kind, steps)


# -- the origin ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Asked:
    """What the origin was asked."""

    step: int
    method: str
    fields: list[tuple[str, str]]
    answered: int = 0

    def get(self, name: str) -> str | None:
        return _get(self.fields, name)


class Running:
    """A case under way."""

    def __init__(self, of: Case) -> None:
        self.case = of
        self.asked: list[Asked] = []

    def body_of(self, step: int) -> bytes:
        reply = self.case.steps[step].reply
        return f"{self.case.name} {step}".encode() if reply.body is None else reply.body


class Origin:
    """The scripted origin on a loopback port of its own.

    Attributes:
        port: its own.
        strays: requests that belong to no case.
    """

    def __init__(self) -> None:
        self.port = 0
        self.strays: list[str] = []
        self._cases: dict[str, Running] = {}
        self._number = itertools.count(int(time.time() * 1000) % 1_000_000_000)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await settled()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, of: Case) -> tuple[str, Running]:
        """A path of its own for a case."""
        path = f"/case{next(self._number)}"
        self._cases[path] = running = Running(of)
        return path, running

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line, fields = await _head(reader)
        method, target, _ = line.split(" ", 2)
        await _body(reader, fields, True)
        name = "/" + target.split("/")[1].split("?")[0] if target.startswith("/") else target
        running = self._cases.get(name)
        number = _get(fields, "test-step")
        if running is None or number is None or int(number) >= len(running.case.steps):
            self.strays.append(line)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        asked = Asked(int(number), method, fields)
        running.asked.append(asked)
        return await self._reply(writer, running, asked)

    async def _reply(self, writer: asyncio.StreamWriter, running: Running, asked: Asked) -> bool:
        reply = running.case.steps[asked.step].reply
        if reply.drop:
            return False
        body = running.body_of(asked.step)
        status = reply.status
        if reply.validates and _still_valid(running, asked):
            status = 304
        fields = list(reply.fields)
        # What a cache asks for is its own affair: a condition or a range may be left out on the way.
        if (status == 304 and not asked.get("if-none-match") and not asked.get("if-modified-since")) or (
            status == 206 and not asked.get("range")
        ):
            status, fields = 200, [field for field in fields if field[0] != "Content-Range"]
        asked.answered = status
        if reply.interim:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n" + _lines(reply.interim) + b"\r\n")
        head = [f"HTTP/1.1 {status} Said\r\n".encode()]
        if status != 304:  # it speaks of an answer of another step
            head.append(f"Origin-Step: {asked.step}\r\n".encode())
        named = {name.lower() for name, _ in fields}
        if "date" not in named:
            head.append(_lines([("Date", At(0))]))
        head.append(_lines(fields))
        empty = status in (204, 304) or asked.method == "HEAD"
        if reply.chunked and not empty:
            head.append(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
            head.append(b"" if reply.cut else b"0\r\n\r\n")
        elif status in (204, 304):
            head.append(b"\r\n")
        else:
            if "content-length" not in named:
                head.append(b"Content-Length: %d\r\n" % len(body))
            head.append(b"\r\n")
            if not empty:
                head.append(body[: len(body) // 2] if reply.cut else body)
        writer.write(b"".join(head))
        await writer.drain()
        return not reply.cut


def _still_valid(running: Running, asked: Asked) -> bool:
    for earlier in range(asked.step - 1, -1, -1):
        fields = running.case.steps[earlier].reply.fields
        etag, date = _get_plain(fields, "etag"), _get_plain(fields, "last-modified")
        if etag is not None or date is not None:
            match, since = asked.get("if-none-match"), asked.get("if-modified-since")
            if match is not None:
                return etag is not None and etag.removeprefix("W/") in match.replace("W/", "")
            return since is not None and since == date
    return False


# -- the client ------------------------------------------------------------------------------------------------------


async def play(of: Case, origin: Origin, ports: Sequence[int]) -> str:
    """One case: "" or what was not as it should be."""
    path, running = origin.begin(of)
    try:
        async with asyncio.timeout(ANSWER_S_MAX + sum(step.pause_s for step in of.steps)):
            for number, step in enumerate(of.steps):
                wrong = await _play_step(running, number, step, path, ports[number % len(ports)])
                if wrong:
                    return f"step {number}: {wrong}"
                if number + 1 == len(of.steps):
                    break
                if step.refreshed:
                    await _answered(running, number)
                reads = step.method in ("GET", "HEAD")
                if reads:
                    await _settle(origin, ports[number % len(ports)], ports[(number + 1) % len(ports)])
                push_s = PUSH_S if len(ports) > 1 and reads else 0.0
                if step.pause_s or push_s:
                    await asyncio.sleep(max(step.pause_s, push_s))
    except TimeoutError:
        return "no answer"
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        return f"no right answer: {error!r}"
    return ""


_SETTLING = case(
    "settling", "", "ours",
    *[ask("any", cc="max-age=3600", r=[("Vary", "Test-Settling")]) for _ in range(1 + SETTLING_TRIES)],
)  # fmt: skip


async def _settle(origin: Origin, by: int, to: int) -> None:
    """What was answered through one port is stored for the other, as far as the cache stores at all."""
    for _ in range(SETTLING_ROUNDS):
        path, _ = origin.begin(_SETTLING)
        await _ask(_SETTLING.steps[0], path, 0, by)
        for number in range(1, 1 + SETTLING_TRIES):
            _, fields, _ = await _ask(_SETTLING.steps[number], path, number, to)
            if int(_get(fields, "origin-step") or -1) < number:
                break


async def _answered(running: Running, number: int) -> None:
    while not any(one.step == number and one.answered for one in running.asked):
        await asyncio.sleep(0.01)


async def play_all(cases: Sequence[Case], origin: Origin, ports: Sequence[int]) -> dict[str, str]:
    """Case name -> what was wrong, "" for nothing."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(of: Case) -> str:
        async with places:
            return await play(of, origin, ports)

    return dict(zip((of.name for of in cases), await asyncio.gather(*map(one, cases)), strict=True))


async def _play_step(running: Running, number: int, step: Step, path: str, port: int) -> str:
    try:
        status, fields, body = await _ask(step, f"{path}{step.path}", number, port)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        if step.sees == "cut":
            return ""
        raise
    if step.sees == "cut":
        return "" if status >= 500 else "an incomplete answer that looks complete"
    made_for = int(_get(fields, "origin-step") or -1)
    asked = [one for one in running.asked if one.step == number]
    wrong = _how_it_came(step, number, status, made_for, asked)
    if wrong:
        return wrong
    wanted = step.reply.status if step.status is None else step.status
    if step.sees in ("hit", "validated") and step.status is None:
        wanted = running.case.steps[made_for].reply.status
    if step.sees == "error" and step.status is None:
        wanted = 0
    if wanted and status != wanted:
        return f"status {status}, not {wanted}"
    for name, value in step.has:
        found = _get(fields, name)
        if found is None:
            return f"no {name}"
        if isinstance(value, int) and not (found.isdigit() and int(found) >= value):
            return f"{name}: {found}, not {value} or more"
        if isinstance(value, str) and found != value:
            return f"{name}: {found}, not {value}"
    for name in step.lacks:
        if _get(fields, name) is not None:
            return f"{name}: {_get(fields, name)}"
    wanted_body = step.content
    if wanted_body is None and status == 200 and step.method != "HEAD" and made_for >= 0:
        wanted_body = running.body_of(made_for)
    if wanted_body is not None and body != wanted_body:
        return f"content {body[:80]!r}, not {wanted_body[:80]!r}"
    for one in asked:
        for name, value in step.origin_has:
            if one.get(name) is None or (value is not None and one.get(name) != value):
                return f"the origin saw {name}: {one.get(name)}, not {value}"
        for name in step.origin_lacks:
            if one.get(name) is not None:
                return f"the origin saw {name}: {one.get(name)}"
    return ""


def _how_it_came(step: Step, number: int, status: int, made_for: int, asked: list[Asked]) -> str:
    validated = bool(asked) and asked[-1].answered == 304
    if step.sees == "hit":
        if asked:
            return "the origin was asked"
        if made_for >= number or (made_for < 0 and status != 304 and not step.status):
            return f"an answer that is no stored one (status {status})"
    elif step.sees == "miss" and made_for != number:
        return f"an answer of step {made_for} (status {status})"
    elif step.sees == "validated" and (not validated or (status == 304 and step.status != 304)):
        return f"not validated (status {status}, the origin {'was' if asked else 'was not'} asked)"
    elif step.sees == "not-hit" and made_for != number and not validated:
        return f"an answer of step {made_for}, not validated (status {status})"
    elif step.sees == "unasked" and asked:
        return "the origin was asked"
    elif step.sees == "error" and status < 500:
        return f"status {status}"
    return ""


async def _ask(step: Step, target: str, number: int, port: int) -> tuple[int, list[tuple[str, str]], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{step.method} {target} {step.version}\r\nHost: {step.host}\r\nTest-Step: {number}\r\n".encode()
        head += _lines(step.fields)
        if step.body:
            head += b"Content-Length: %d\r\n" % len(step.body)
        elif step.method in ("POST", "PUT"):
            head += b"Content-Length: 0\r\n"
        writer.write(head + b"Connection: close\r\n\r\n" + step.body)
        while True:
            line, fields = await _head(reader)
            status = int(line.split(" ", 2)[1])
            if status >= 200:
                break
        if step.method == "HEAD" or status in (204, 304):
            return status, fields, await reader.read(1)
        return status, fields, await _body(reader, fields, False)
    finally:
        writer.close()


# -- messages ----------------------------------------------------------------------------------------------------------


def _lines(fields: Fields) -> bytes:
    now_s = int(time.time())
    return b"".join(
        f"{name}: {email.utils.formatdate(now_s + value.seconds, usegmt=True) if isinstance(value, At) else value}\r\n"
        .encode("latin-1")
        for name, value in fields
    )  # fmt: skip


def _get(fields: Sequence[tuple[str, str]], name: str) -> str | None:
    found = [value for one, value in fields if one.lower() == name.lower()]
    return ", ".join(found) if found else None


def _get_plain(fields: Fields, name: str) -> str | None:
    return next((value for one, value in fields if one.lower() == name and isinstance(value, str)), None)


async def _head(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
    return lines[0], fields


async def _body(reader: asyncio.StreamReader, fields: list[tuple[str, str]], of_request: bool) -> bytes:
    if "chunked" in (_get(fields, "transfer-encoding") or ""):
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
        return body
    length = _get(fields, "content-length")
    if length is not None:
        return await reader.readexactly(int(length))
    return b"" if of_request else await reader.read()
