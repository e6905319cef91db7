"""What a client's connection has to do with the cache of responses.

Not here: what may be stored or used (fastroute.http_cache), who fills and who waits (fastroute.proxy.caching, Python: asked
when the near cache has no fresh response for a plain request).

    near, fresh, plain    sent from begin(): no task, no call of Python
    anything else         phase LOOKING; the cache answers with go() (to a server), serve() or fail(), now or later
    a response            fill.head(), then its body copied or dropped, then fill.end(); or fill.lost(), fill.error()

Rules of this file: without a cache on the route nothing here runs but one test of a pointer. What is copied is bounded by the
cache's max_object_bytes; while it is copied a slow client does not hold the server, for others wait for the copy.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeLatin1
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastroute._core.http_head cimport (
    FR_BODY_LENGTH,
    FR_BODY_UNTIL_CLOSE,
    FR_FIELD_CONNECTION,
    FR_FIELD_CONTENT_LENGTH,
    FR_FIELD_HOP,
    FR_FIELD_KEEP_ALIVE,
    FR_FIELD_PROXY_CONNECTION,
    FR_FIELD_TE,
    FR_FIELD_TRAILER,
    FR_FIELD_TRANSFER_ENCODING,
    FR_FIELD_UPGRADE,
    FR_FIELD_X_FASTROUTE,
    FR_METHOD_GET,
    FR_METHOD_HEAD,
    FR_SCAN_DONE,
    fr_head,
    fr_head_limits,
    fr_scan_request,
)
from fastroute._core.http_reading cimport FR_PHASE_LOOKING, FR_PHASE_NONE
from fastroute._core.http_stored cimport Stored
from fastroute._core.http_wire cimport fr_now_ns, fr_out, fr_out_clear, fr_out_decimal, fr_out_free, fr_out_put, fr_out_text
from fastroute._core.near_cache cimport NEAR_KIND_STR

from libc.stdlib cimport calloc, free

cdef extern from "fr_cache_key.h" nogil:
    enum:
        FR_CACHE_PLAIN
        FR_CACHE_ASKS
        FR_CACHE_BYPASS
    int fr_cache_key(fr_out *out, const uint8_t *data, const fr_head *head, int tls, int trusted) noexcept
    int fr_same_text(const uint8_t *data, size_t size, const char *lower, size_t lower_size) noexcept

FILL_PASS, FILL_TEE, FILL_SWALLOW, FILL_WATCH = FR_FILL_PASS, FR_FILL_TEE, FR_FILL_SWALLOW, FR_FILL_WATCH
ASKS, BYPASS = FR_CACHE_ASKS, FR_CACHE_BYPASS

# Bodies up to this size are sent in one call with their head; a copy of so many bytes costs less than a call.
cdef Py_ssize_t TOGETHER_BYTES = 32 << 10

# Words of fastroute.metrics.layout.CACHE_RESULTS that are counted here.
cdef enum:
    RESULT_HIT = 0


cdef inline int64_t _wall_ms() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000


cdef Stored _variant(Caching self, object variants, const uint8_t *data, const fr_head *head):
    """The near response that a fastroute.http_cache.variants.Variants means for this request; None: the rules have to say.

    What the fields mean is the rules' business: they are asked once per URL and values, and the answer is remembered under
    the values as they came. The scratch buffer holds the URL's key before and after.
    """
    cdef fr_out *out = &self.engine.out
    cdef size_t key_size = out.size
    cdef PyObject *found
    cdef Py_ssize_t size = 0
    cdef const char *text
    cdef unsigned int i
    if not isinstance(variants, tuple) or self.route.request_fields is not None:
        return None
    try:
        names, number, soft_ms = <tuple>variants
        if soft_ms:
            return None
        fr_out_put(out, b"\n", 1)
        fr_out_put(out, PyBytes_AS_STRING(number), PyBytes_GET_SIZE(number))
        for name in <tuple>names:
            text = PyUnicode_AsUTF8AndSize(name, &size)
            fr_out_put(out, b"\n", 1)
            for i in range(head.field_count):
                if not head.fields[i].flags & FR_FIELD_HOP and fr_same_text(
                    data + head.fields[i].name_at, head.fields[i].name_size, text, size
                ):
                    fr_out_put(out, data + head.fields[i].value_at, head.fields[i].value_size)
                    fr_out_put(out, b"\n", 1)
        raw = PyBytes_FromStringAndSize(<const char *>out.data, out.size)
        out.size = key_size
        key = self.route.responses.variant_keys.get(raw)
        if key is None:
            lines = []
            for i in range(head.field_count):
                if not head.fields[i].flags & FR_FIELD_HOP:
                    lines.append((
                        PyUnicode_DecodeLatin1(<const char *>data + head.fields[i].name_at, head.fields[i].name_size, NULL).lower(),
                        PyUnicode_DecodeLatin1(<const char *>data + head.fields[i].value_at, head.fields[i].value_size, NULL),
                    ))
            url = PyUnicode_DecodeLatin1(<const char *>out.data, out.size, NULL)
            key = self.route.responses.learn_variant(variants, url, raw, lines)
            if key is None:
                return None
        text = PyUnicode_AsUTF8AndSize(key, &size)
        found = self.route.near.fresh(NEAR_KIND_STR, <const uint8_t *>text, <unsigned int>size)
        if found is not NULL and type(<object>found) is Stored:
            return <Stored>found
    except Exception as error:
        out.size = key_size
        self.report(error)
    return None


cdef class Caching(Request):
    """One client connection before the cache."""

    def __dealloc__(self):
        fr_out_free(&self.teed)

    cdef void _over(self) noexcept:
        pass

    cdef void dress(self) noexcept:
        pass

    # ---- the request -------------------------------------------------------------------------------------------

    cdef bint from_cache(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef fr_out *out = &self.engine.out
        cdef PyObject *found
        cdef Stored stored
        fr_out_clear(out)
        self.cache_key = None
        self.cache_reads = self.request_complete and (head.method == FR_METHOD_GET or head.method == FR_METHOD_HEAD)
        self.cache_asks = fr_cache_key(out, data, head, self.terms.tls, self.trusted)
        if self.cache_asks == FR_CACHE_BYPASS:
            return False
        self.begun_ns = fr_now_ns()
        if self.cache_reads and self.cache_asks == FR_CACHE_PLAIN:
            found = self.route.near.fresh(NEAR_KIND_STR, out.data, <unsigned int>out.size)
            if found is not NULL:
                stored = <Stored>found if type(<object>found) is Stored else _variant(self, <object>found, data, head)
                if stored is not None and self._send_stored(stored):
                    return True
        try:
            self.cache_key = PyUnicode_DecodeLatin1(<const char *>out.data, out.size, NULL)
        except Exception as error:
            self.report(error)
        return False

    cdef bint _send_stored(self, Stored stored) noexcept:
        """Send a fresh response; False where it is not."""
        cdef fr_out *out = &self.engine.out
        cdef int64_t age_ms = _wall_ms() - stored.born_ms
        if age_ms < 0:
            age_ms = 0
        if stored.no_cache or age_ms >= stored.lifetime_ms:
            return False
        fr_out_clear(out)
        fr_out_put(out, PyBytes_AS_STRING(stored.head), PyBytes_GET_SIZE(stored.head))
        fr_out_text(out, b"Age: ")
        fr_out_decimal(out, <uint64_t>(age_ms // 1000))
        fr_out_text(out, b"\r\nCache-Status: fastroute; hit; ttl=")
        fr_out_decimal(out, <uint64_t>((stored.lifetime_ms - age_ms) // 1000))
        fr_out_text(out, b"\r\n")
        self.route.counted.cache[RESULT_HIT] += 1
        self._send_own(stored.status, stored.body, 0, PyBytes_GET_SIZE(stored.body))
        return True

    cdef void _send_own(self, int status, bytes body, Py_ssize_t first, Py_ssize_t size) noexcept:
        cdef fr_out *out = &self.engine.out
        cdef int code = status // 100
        self.epoch += 1
        if self.route.response_fields is not None:
            self.dress()
        if self.engine.draining:
            self.keep = False
        if not self.keep:
            fr_out_text(out, b"Connection: close\r\n")
        fr_out_text(out, b"\r\n")
        self.status, self.head_out = status, out.size
        self.engine.counts.responses[code] += 1
        self.route.counted.responses[code] += 1
        self.count_time()
        if self.is_head or size <= 0:
            self.put(out.data, out.size)
        elif size <= TOGETHER_BYTES:
            fr_out_put(out, PyBytes_AS_STRING(body) + first, size)
            self.put(out.data, out.size)
        elif self.put(out.data, out.size) == 0:
            if first == 0 and size == PyBytes_GET_SIZE(body):
                self.put_bytes(body)
            else:
                self.put(<const uint8_t *>PyBytes_AS_STRING(body) + first, size)
        if out.failed:
            self.abort(False)
        fr_out_clear(out)
        self._over()

    cdef bint look(self) noexcept:
        cdef bint taken = False
        if self.begun_ns == 0:
            self.begun_ns = fr_now_ns()
        self.phase = FR_PHASE_LOOKING
        try:
            taken = self.route.responses.look(self, self.epoch, self.cache_key if self.cache_reads else None, self.cache_key,
                                          self.request, self.is_head, self.cache_asks)
        except Exception as error:
            self.report(error)
        if not taken and self.phase == FR_PHASE_LOOKING:
            self.phase = FR_PHASE_NONE
        return taken

    # ---- the response ------------------------------------------------------------------------------------------

    cdef int fill_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept:
        cdef unsigned int i
        cdef list lines = []
        cdef int does = FR_FILL_PASS
        self.fill_says = None
        try:
            for i in range(head.field_count):
                if head.fields[i].flags & FR_FIELD_HOP or head.fields[i].id in (
                    FR_FIELD_CONNECTION, FR_FIELD_UPGRADE, FR_FIELD_KEEP_ALIVE, FR_FIELD_PROXY_CONNECTION, FR_FIELD_TE,
                    FR_FIELD_TRAILER, FR_FIELD_TRANSFER_ENCODING, FR_FIELD_X_FASTROUTE, FR_FIELD_CONTENT_LENGTH
                ):
                    continue
                lines.append((
                    PyUnicode_DecodeLatin1(<const char *>data + head.fields[i].name_at, head.fields[i].name_size, NULL),
                    PyUnicode_DecodeLatin1(<const char *>data + head.fields[i].value_at, head.fields[i].value_size, NULL),
                ))
            reason = PyUnicode_DecodeLatin1(<const char *>data + head.reason_at, head.reason_size, NULL)
            does, self.fill_says = self.fill.head(
                head.status, reason, tuple(lines),
                <object>head.content_length if framing == FR_BODY_LENGTH else None, framing != FR_BODY_UNTIL_CLOSE,
            )
        except Exception as error:
            self.report(error)
            self.fill_lost()
            return FR_FILL_PASS
        self.fill_does = does
        if does == FR_FILL_PASS:
            self.fill = None
        return does

    cdef void fill_body(self, const uint8_t *data, Py_ssize_t size) noexcept:
        if self.fill_does != FR_FILL_TEE:
            return
        fr_out_put(&self.teed, data, size)
        if self.teed.failed or self.teed.size > self.route.object_bytes_max:
            fr_out_free(&self.teed)
            self.fill_lost()

    cdef bint fill_end(self) noexcept:
        cdef object fill = self.fill
        cdef bytes body
        cdef int does = self.fill_does
        self.fill = None
        self.fill_does = FR_FILL_PASS
        try:
            body = PyBytes_FromStringAndSize(<const char *>self.teed.data, self.teed.size)
            fr_out_free(&self.teed)
            answer = fill.end(body)
        except Exception as error:
            self.report(error)
            answer = None
        return does == FR_FILL_SWALLOW and self._serve(answer)

    cdef bint fill_failed(self, int status) noexcept:
        cdef object fill = self.fill
        self.fill = None
        self.fill_does = FR_FILL_PASS
        fr_out_free(&self.teed)
        try:
            fr_out_clear(&self.engine.out)
            answer = fill.error(status)
        except Exception as error:
            self.report(error)
            answer = None
        return self._serve(answer)

    cdef void fill_lost(self) noexcept:
        cdef object fill = self.fill
        self.fill = None
        self.fill_does = FR_FILL_PASS
        fr_out_free(&self.teed)
        if fill is None:
            return
        try:
            fill.lost()
        except Exception as error:
            self.report(error)

    cdef bint _serve(self, answer) noexcept:
        """Send (status, head, body, first, behind)."""
        cdef bytes head, body
        if answer is None or self.closed:
            return False
        try:
            status, head, body, first, behind = answer
        except Exception as error:
            self.report(error)
            return False
        fr_out_put(&self.engine.out, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        self._send_own(status, body, first, behind - first)
        return True

    # ---- what the cache calls ----------------------------------------------------------------------------------

    @property
    def cache_request(self):
        """The present request's bytes for the server."""
        return self.request

    def waits(self, uint64_t epoch):
        """Does this request still wait for the cache?"""
        return epoch == self.epoch and self.phase == FR_PHASE_LOOKING and not self.closed

    def go(self, uint64_t epoch, bytes request not None, fill):
        """Send the request to a server, as these bytes; False: it does not wait any more."""
        if epoch != self.epoch or self.phase != FR_PHASE_LOOKING or self.closed:
            return False
        self.request, self.fill, self.fill_does = request, fill, FR_FILL_PASS
        self.phase = FR_PHASE_NONE
        self._choose()
        return True

    def serve(self, uint64_t epoch, int status, bytes head not None, bytes body, Py_ssize_t first, Py_ssize_t behind, int result):
        """Answer the request from the cache; False: it does not wait any more."""
        if epoch != self.epoch or self.phase != FR_PHASE_LOOKING or self.closed:
            return False
        if 0 <= result < 7:
            self.route.counted.cache[result] += 1
        fr_out_clear(&self.engine.out)
        return self._serve((status, head, body, first, behind))

    def fail(self, uint64_t epoch, int status):
        """Answer the request in the server's place."""
        if epoch != self.epoch or self.phase != FR_PHASE_LOOKING or self.closed:
            return False
        self.answer(status, False)
        return True


def cache_key(bytes request not None, bint tls=False, bint trusted=False):
    """(key or None, FR_CACHE_*) of a whole request head, for tests."""
    cdef fr_head *head = <fr_head *>calloc(1, sizeof(fr_head))
    cdef fr_head_limits limits
    cdef fr_out out
    cdef size_t searched = 0
    cdef int asks
    if head is NULL:
        raise MemoryError
    memset(&limits, 0, sizeof(limits))
    memset(&out, 0, sizeof(out))
    try:
        if fr_scan_request(<const uint8_t *>PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request), &searched, &limits, head) != FR_SCAN_DONE:
            raise ValueError("not a request")
        asks = fr_cache_key(&out, <const uint8_t *>PyBytes_AS_STRING(request), head, tls, trusted)
        if asks == FR_CACHE_BYPASS:
            return None, asks
        return PyUnicode_DecodeLatin1(<const char *>out.data, out.size, NULL), asks
    finally:
        free(head)
        fr_out_free(&out)
