"""One stored HTTP response, with its head ready to be sent.

Not here: whether it may be used (fastroute.http_cache), how it stands in the store (fastroute.http_cache.stored), sending it
(http_caching). Rules of this file: nothing changes after __init__; a change makes another Stored.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE


@cython.final
cdef class Stored:
    """A stored response.

    Args:
        status, reason: of the status line.
        fields: (name, value) of each line, without Age and Content-Length, which are written anew.
        body: whole.
        number: names this version.
        born_ms: wall clock at which its Age was 0.
        made_ms: wall clock at which it came, or was confirmed.
        lifetime_ms: fresh for so long from born_ms on.
        stale_while_revalidate_ms, stale_if_error_ms: usable so for so long after that.
        no_cache, must_revalidate: as fastroute.http_cache.storing.Terms has them.
    """

    def __init__(self, int status, str reason, tuple fields, bytes body, bytes number, *, born_ms, made_ms, lifetime_ms,
                 stale_while_revalidate_ms=0, stale_if_error_ms=0, no_cache=False, must_revalidate=False):
        self.status, self.reason, self.fields, self.body, self.number = status, reason, fields, body, number
        self.born_ms, self.made_ms, self.lifetime_ms = born_ms, made_ms, lifetime_ms
        self.stale_while_revalidate_ms, self.stale_if_error_ms = stale_while_revalidate_ms, stale_if_error_ms
        self.no_cache, self.must_revalidate = no_cache, must_revalidate
        lines = [f"HTTP/1.1 {status} {reason}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in fields]
        if status != 204:
            lines.append(f"Content-Length: {PyBytes_GET_SIZE(body)}\r\n")
        self.head = "".join(lines).encode("latin-1")

    @property
    def lowered(self):
        """The fields, names in lower case: as the rules read them."""
        if self._lowered is None:
            self._lowered = [(name.lower(), value) for name, value in self.fields]
        return self._lowered

    def __sizeof__(self):
        # Fields stand here twice, as text and in the head: text costs about 110 bytes a line beside its letters.
        return 200 + PyBytes_GET_SIZE(self.body) + 3 * PyBytes_GET_SIZE(self.head) + 120 * len(self.fields)
