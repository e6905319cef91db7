"""Key -> selection. What is known near is answered here, compiled; everything else goes through the affinity.

`Router` knows affinity through a protocol, not an import: an object with
    attach(pool) -> AffinityView        the pool's view of the near table
                                        (attach(pool, on_failure="fail") for a router that does not move)
    async bind(view, key, hint)         -> Bound(slot, reason, term, generation)
    async rebind(view, key, failed_slot, term, generation, evidence) -> Bound
    async unbind(view, key)             -> "released", "absent" or "moved"
    touch_soon(view, key), learn(view, key, slot, term), forget(view, key)    never wait
fastroute.affinity.Affinity is one; a blocking twin serves fastroute.sync.

Rules of this file: route_nowait never waits and never makes two answers in one fleet: it answers from the table or not
at all. A key of None or b"" is a request without a key: the policy decides and nothing is bound.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t

from fastroute._core.affinity_view cimport AffinityView, fr_near
from fastroute._core.pool cimport Pool
from fastroute._core.selection cimport Selection, make_selection

from fastroute.errors import NoServerAvailable, UsageError

cdef str NEAR = "affinity-near"
cdef str POLICY = "policy"
cdef str PANIC = "panic"


cdef class Router:
    """Routes requests of one pool.

    Args:
        pool: the servers and their policy.
        affinity: what remembers decisions; None for a router without stickiness.
        key: rule that finds the affinity key in a request: "client-ip", "cookie:NAME", "header:NAME", or an object
            with `extract(mapping) -> bytes | None`.
        on_failure: "move": a bound request whose server fails goes to another one, once for the whole fleet. "fail":
            the key stays bound, and its requests raise NoServerAvailable while its server is down (not: in maintenance).

    Raises:
        UsageError: an argument that is not one of these.

    Notes:
        One event loop and the GIL: not for several threads at once. route_nowait holds the GIL (about 0.1 us).
    """

    def __init__(self, Pool pool not None, *, affinity=None, key="client-ip", on_failure="move"):
        if on_failure not in ("move", "fail"):
            raise UsageError(f'on_failure {on_failure!r}: accepted are "move" and "fail"')
        self.pool, self.affinity, self.on_failure = pool, affinity, on_failure
        if not hasattr(key, "extract"):
            from fastroute.routing.keys import parse_rule  # a pure file above the core, needed by the control plane only
            key = parse_rule(key)
        self.key_rule = key
        self.view = None
        if affinity is not None:
            pool.prepare_fallback()
            self.view = affinity.attach(pool) if on_failure == "move" else affinity.attach(pool, on_failure=on_failure)

    cdef int near(self, const uint8_t *key, Py_ssize_t size, fr_near *out) noexcept:
        cdef int status
        if self.view is not None and size > 0:
            status = self.view.near(key, size, out)
            if status == FR_NEAR_HIT and self.pool.charges:
                self.pool.charge(out.slot)
            return status
        out.term = 0
        out.generation = 0
        out.wants_touch = False
        out.slot = self.pool.pick(key, size)
        return FR_NEAR_NONE if out.slot < 0 else FR_NEAR_POLICY

    def key_of(self, head_or_mapping):
        """The affinity key of a request, or None.

        Args:
            head_or_mapping: mapping of field names (any case) to str or bytes; "client-ip" holds the client's address, ":path"
                the target. Or a request's head as bytes, up to its empty line, in which a client's address is not found.

        Raises:
            DownstreamProtocolError: a head that the proxy would refuse.
        """
        return self.key_rule.extract(head_or_mapping)

    def route_nowait(self, key):
        """Near answer: a Selection, or None when nothing usable is known near. Never waits.

        Args:
            key: bytes or str; None or empty: a request without a key, which the policy decides.

        Raises:
            UsageError: a key of another type.
            NoServerAvailable: a request without a key and no server that can take it.
        """
        cdef fr_near out
        cdef const char *data = NULL
        cdef Py_ssize_t size = 0
        cdef int status
        if type(key) is bytes:
            data, size = PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
        elif key is not None:
            data = _text(key, &size)
        status = self.near(<const uint8_t *>data, size, &out)
        if status == FR_NEAR_HIT:
            if out.wants_touch:
                self.touch_soon(key)
            return make_selection(self.pool, self.pool.server_in(out.slot), out.slot, NEAR, key, out.term, out.generation)
        if status == FR_NEAR_POLICY:
            return make_selection(self.pool, self.pool.server_in(out.slot), out.slot, PANIC if self.pool.panicking else POLICY, key, 0, 0)
        if status == FR_NEAR_NONE:
            raise NoServerAvailable(self.pool.name, self.pool.reasons())
        return None

    async def route(self, key, hint=None):
        """The key's server: near, from the store, or newly bound; one answer for the whole fleet.

        Args:
            key: bytes or str; None or empty as in route_nowait.
            hint: None, or (server name, term, generation) from a signed cookie.

        Raises:
            UsageError: a key of another type.
            NoServerAvailable: no server of the pool can take it.
        """
        selection = self.route_nowait(key)
        # A hint with a later decision of the same term outranks the near table, which then learns it.
        if selection is not None and (hint is None or selection.term != hint[1] or selection.generation >= hint[2]):
            return selection
        key = _as_bytes(key)
        return self.selection_of(key, await self.affinity.bind(self.view, key, hint))

    async def move(self, selection, evidence):
        """Another server for a selection whose server failed; written before the request is forwarded again.

        Args:
            selection: what route() gave.
            evidence: the UpstreamError (or any exception) of this request's attempt. Anything else, such as a text, is
                hearsay (a health check): it does not undo a move that another replica made a moment ago.

        Raises:
            NoServerAvailable: no other server can take it, or on_failure is "fail".
        """
        cdef Selection failed = selection
        cdef uint16_t tried = <uint16_t>failed.slot
        cdef const char *data = NULL
        cdef Py_ssize_t size = 0
        cdef int slot
        if failed.key is None or self.view is None or failed.term == 0:
            if failed.key is not None:
                data = _text(failed.key, &size)
            slot = self.pool.pick_other(<const uint8_t *>data, size, &tried, 1)
            if slot < 0:
                raise NoServerAvailable(self.pool.name, self.pool.reasons())
            return make_selection(self.pool, self.pool.server_in(slot), slot, PANIC if self.pool.panicking else POLICY, failed.key, 0, 0)
        key = _as_bytes(failed.key)
        bound = await self.affinity.rebind(self.view, key, failed.slot, failed.term, failed.generation, evidence)
        return self.selection_of(key, bound)

    async def release(self, key):
        """End the key's binding everywhere; the next request of that key is a new one.

        Returns:
            "released", "absent" (it was not bound), or "moved" (bound anew by somebody meanwhile: that stays).

        Raises:
            MemcacheDown, MemcacheUnknown: the store could not be asked, or did not answer: the binding may still stand
                there. The zone has forgotten the key all the same.
        """
        return "absent" if self.view is None else await self.affinity.unbind(self.view, _as_bytes(key))

    def explain(self, key):
        """Where the key would go now, and why: a fastroute.routing.explain.Explanation. Nothing is counted or changed.

        Raises:
            UsageError: as route_nowait does.
        """
        return self._explained(key, None)

    async def explain_stored(self, key, timeout_s=0.25):
        """explain(), with what the store says of the key: it is asked once, and at most timeout_s waited for."""
        said = None
        if self.view is not None and key and hasattr(self.affinity, "look"):
            said = await self.affinity.look(self.view, _as_bytes(key), timeout_s)
        return self._explained(key, said)

    def _explained(self, key, said):
        from fastroute.routing.explain import explain  # above the core; the control plane alone asks
        return explain(self.pool, self.view, key, stored=getattr(self.affinity, "store", None) is not None,
                       near_ttl_s=getattr(self.affinity, "near_ttl_s", 0.0), store=said)

    def touch_soon(self, key):
        """Slide the key's expiry in the store, some time soon; never waits."""
        if self.view is not None:
            self.affinity.touch_soon(self.view, _as_bytes(key))

    def learn(self, key, int slot, term=0):
        """An answer of the server in `slot` named this key: it is bound there; never waits. `term`: of a new binding."""
        if self.view is not None:
            self.affinity.learn(self.view, _as_bytes(key), slot, term)

    def forget(self, key):
        """An answer took this key back: end its binding, some time soon; never waits."""
        if self.view is not None:
            self.affinity.forget(self.view, _as_bytes(key))

    def selection_of(self, key, bound):
        """The Selection that a Bound of the affinity stands for."""
        return make_selection(self.pool, self.pool.server_in(bound.slot), bound.slot, bound.reason, key,
                              bound.term, bound.generation)


cdef const char *_text(key, Py_ssize_t *size) except NULL:
    if not isinstance(key, str):
        if isinstance(key, bytes):  # a subclass of bytes
            size[0] = PyBytes_GET_SIZE(key)
            return PyBytes_AS_STRING(key)
        raise UsageError(f"key {type(key).__name__}: accepted are str, bytes and None")
    try:
        return PyUnicode_AsUTF8AndSize(key, size)
    except UnicodeEncodeError as error:
        raise UsageError(f"key has a lone surrogate at position {error.start}: it has no UTF-8 form") from None




cdef bytes _as_bytes(key):
    cdef Py_ssize_t size
    cdef const char *data
    if type(key) is bytes:
        return key
    data = _text(key, &size)
    return data[:size]
