"""Hooks of embedders: Python functions that the relay calls per request, where a `Proxy` was given some.

Not here: when they are called (http_request, http_attempt, http_relay). Rules of this file: a hook that raises is
logged once per hook and kind of exception, and the request goes on with what the hook had said before; what a hook
writes is checked like a rule of the configuration; hooks run in the event loop and must not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastroute._core.http_fields import FieldRules, Page
from fastroute._core.http_route import Route
from fastroute.config.fields import FieldName
from fastroute.config.kinds import Mistake
from fastroute.errors import UsageError
from fastroute.model import Server

__all__ = ["HookRequest", "HookResponse", "Hooks", "ListenerHooks"]

KEY_BYTES_MAX = 512
"""Of an affinity key that a hook sets; more than any rule finds."""

log = logging.getLogger("fastroute.hooks")


class _Fields:
    """Fields that a hook sets or removes."""

    def __init__(self) -> None:
        self._set: dict[str, tuple[str, str] | None] = {}

    def set_header(self, name: str, value: str) -> None:
        """Write this field in the place of what is there.

        Raises:
            UsageError: a field that the balancer writes itself, or a value that is not printable.
        """
        if not all(" " <= c <= "~" or c == "\t" for c in value) or value != value.strip(" \t"):
            raise UsageError(f"field {name!r}: accepted are values of printable ASCII")
        self._set[_checked(name)] = (name, value)

    def remove_header(self, name: str) -> None:
        """Take this field out."""
        self._set[_checked(name)] = None

    @property
    def rules(self) -> FieldRules | None:
        """For the relay."""
        if not self._set:
            return None
        lines = [f"{one[0]}: {one[1]}\r\n" for one in self._set.values() if one is not None]
        return FieldRules([name.encode() for name in self._set], ["".join(lines).encode()] if lines else [])


class HookRequest(_Fields):
    """A request, before its server is chosen.

    Attributes:
        method, target, host, client, listener: text; `target` as in the request line, `client` behind trusted proxies.
        headers: (name, value) each, as they came.
        id: with `request_id`, else "".
        pool: where it goes; may be set to another pool of the configuration that this listener has a route to.
        key: None; may be set to an affinity key (bytes), in the place of what `sticky.on` finds.
        state: a dict of the embedder's own, the same in all three hooks.
    """

    def __init__(
        self, method: str, target: str, host: str, client: str, listener: str, headers: list[tuple[str, str]], id: str
    ) -> None:
        super().__init__()
        self.method, self.target, self.host, self.client = method, target, host, client
        self.listener, self.headers, self.id = listener, headers, id
        self.pool = ""
        self.key: bytes | None = None
        self.state: dict[str, Any] = {}
        self.status = 0
        self.page: Page | None = None
        self.route: Route | None = None

    def header(self, name: str) -> str | None:
        """The first value of a field, or None."""
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)

    def respond(
        self, status: int, body: bytes | str = b"", content_type: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer instead of a server. Text is sent as UTF-8.

        Raises:
            UsageError: a status without a body (1xx, 204, 205, 304), a body that is none, or a field that may not be
                set.
        """
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, (bytes, bytearray, memoryview)):
            raise UsageError(f"body of type {type(body).__name__}: accepted are bytes and str")
        if not 200 <= status <= 599 or status in (204, 205, 304):
            raise UsageError(f"status {status}: accepted are 200 to 599 without 204, 205 and 304")
        fields = [(name, value) for name, value in headers if _checked(name)]
        for text in (content_type, *(value for _, value in fields)):
            if not all(" " <= c <= "~" or c == "\t" for c in text):
                raise UsageError("fields of an answer: accepted are values of printable ASCII")
        self.page = Page(bytes(body), content_type, fields)
        self.status = status


class HookResponse(_Fields):
    """A server's response head, before it goes to the client. Fields may be set and removed.

    Attributes:
        status, headers, server: the final response's; headers as they came.
    """

    def __init__(self, status: int, headers: list[tuple[str, str]], server: Server) -> None:
        super().__init__()
        self.status, self.headers, self.server = status, headers, server


class Hooks:
    """What a Proxy was given.

    Args:
        on_request: called with a HookRequest.
        on_selection: called with the HookRequest, the Server and the reason, for each attempt.
        on_response: called with the HookRequest and a HookResponse.
    """

    def __init__(
        self,
        on_request: Callable[[HookRequest], object] | None,
        on_selection: Callable[[HookRequest, Server, str], object] | None,
        on_response: Callable[[HookRequest, HookResponse], object] | None,
    ) -> None:
        self.on_request, self.on_selection, self.on_response = on_request, on_selection, on_response
        self._told: set[tuple[str, type[BaseException]]] = set()

    def __bool__(self) -> bool:
        return any((self.on_request, self.on_selection, self.on_response))

    def failed(self, hook: str, error: Exception) -> None:
        """Log an exception of a hook, the first of its kind with its traceback."""
        kind = (hook, type(error))
        if kind not in self._told:
            self._told.add(kind)
            log.error(
                "%s raised %r; the request goes on, and others like it are not logged", hook, error, exc_info=error
            )


class ListenerHooks:
    """The hooks as one listener's connections call them.

    Args:
        hooks: of the proxy.
        listener: its name.
        routes: pool's name -> the listener's Route to it.
    """

    def __init__(self, hooks: Hooks, listener: str, routes: Mapping[str, Route]) -> None:
        self._hooks, self._listener, self._routes = hooks, listener, routes
        self.selects, self.responds = hooks.on_selection is not None, hooks.on_response is not None

    def request(
        self, method: str, target: str, host: str, client: str, headers: list[tuple[str, str]], id: str, pool: str
    ) -> HookRequest:
        """Ask on_request."""
        made = HookRequest(method, target, host, client, self._listener, headers, id)
        made.pool = pool
        if self._hooks.on_request is None:
            return made
        try:
            self._hooks.on_request(made)
            if made.pool != pool:
                if made.pool not in self._routes:
                    known = ", ".join(self._routes)
                    raise UsageError(f"pool {made.pool!r}: listener {self._listener!r} has routes to: {known}")
                made.route = self._routes[made.pool]
            if made.key is not None and (type(made.key) is not bytes or not 0 < len(made.key) <= KEY_BYTES_MAX):
                made.key = None
                raise UsageError(f"key: accepted are 1 to {KEY_BYTES_MAX} bytes")
        except Exception as error:
            self._hooks.failed("on_request", error)
        return made

    def selection(self, request: HookRequest, server: Server, reason: str) -> None:
        """Tell on_selection."""
        try:
            assert self._hooks.on_selection is not None
            self._hooks.on_selection(request, server, reason)
        except Exception as error:
            self._hooks.failed("on_selection", error)

    def response(
        self, request: HookRequest, status: int, headers: list[tuple[str, str]], server: Server
    ) -> FieldRules | None:
        """Ask on_response."""
        made = HookResponse(status, headers, server)
        try:
            assert self._hooks.on_response is not None
            self._hooks.on_response(request, made)
        except Exception as error:
            self._hooks.failed("on_response", error)
        return made.rules


def _checked(name: str) -> str:
    try:
        FieldName().convert(name)
    except Mistake as mistake:
        raise UsageError(f"field {name!r}: {mistake.message}") from None
    return name.lower()
