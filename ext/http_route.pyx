"""Where a request goes once its route is known: the settings of one pool as one listener uses it.

Not here: which route a request takes (http_routes), what is the same for all requests of a listener (http_terms). Rules of
this file: nothing changes after __init__; every request has a Route, be it the one that leads nowhere.
"""

from fastroute._core.http_fields cimport FieldRules
from fastroute._core.http_sticky cimport Sticky
from fastroute._core.http_upstream cimport Lines
from fastroute._core.http_waiting cimport Waiting
from fastroute._core.router cimport Router


cdef class Route:
    """One pool behind one listener.

    Args:
        lines, router: what requests work with; without them the route leads nowhere.
        slow: object with route(request, epoch, key, hint), move(request, epoch, selection, timed_out) and
            connect(request, epoch, line); none waits. hint: None or (server digest, term, generation). eject(line) hears of a
            server that fails in a row; full() says whether a server could take a request if it had room.
        sticky: where keys stand.
        waiting: the pool's line for room.
        attempts: beyond the first, per request.
        cache: responses may be cached.
        request_fields, response_fields: header rules, or None.
        responses: the cache: object with near_cache, object_bytes_max and look(), as fastroute.proxy.caching has it; None: none.
    """

    def __init__(self, Lines lines=None, Router router=None, slow=None, Sticky sticky=None, Waiting waiting=None, *,
                 attempts=0, cache=False, FieldRules request_fields=None, FieldRules response_fields=None, responses=None):
        if (lines is None) != (router is None) or (lines is None) != (sticky is None) or (lines is None) != (waiting is None):
            raise TypeError("a route needs lines, router, sticky and waiting, or none of them")
        self.counted = &self.own_counted
        self.name = b"" if router is None else router.pool.name.encode("ascii")
        if lines is not None:
            self.pool, self.counted = router.pool, lines.counted
        self.lines, self.router, self.slow, self.sticky, self.waiting = lines, router, slow, sticky, waiting
        self.attempts_max = min(attempts, 7)
        self.cache = cache
        self.request_fields, self.response_fields = request_fields, response_fields
        if cache and responses is not None:
            self.responses, self.near, self.object_bytes_max = responses, responses.near_cache, responses.object_bytes_max
