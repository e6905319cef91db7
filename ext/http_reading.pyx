"""The reading half of a client's connection: bytes -> requests.

Not here: where a request goes (http_attempt), answers and the end of the connection (http_relay).

    HEAD -> BODY -> HOLD -> HEAD ...       HOLD: the request is in, what follows it waits for its answer
    HOLD -> TUNNEL                         the server agreed to another protocol: bytes
    any  -> DISCARD                        refused or cut short: answer, half-close, read away, close

Rules of this file: nothing goes on before its head was accepted whole, and bytes of a refused body never do. What waits is
bounded by the limit on heads plus one read: whoever cannot go on stops the transport.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from fastroute._core.http_head cimport FR_BODY_LENGTH, FR_SCAN_DONE, FR_SCAN_MORE, fr_chunked_next, fr_head, fr_scan_request
from fastroute._core.http_wire cimport fr_out, fr_out_chunk, fr_out_clear, fr_out_drop, fr_out_free, fr_out_put, fr_out_text


cdef class Reading(Sink):
    """One client connection as a source of requests; an asyncio protocol once the layers above are there."""

    def __dealloc__(self):
        fr_out_free(&self.kept)

    cdef Py_ssize_t begin(self, const uint8_t *data, const fr_head *head, Py_ssize_t more) noexcept:
        return more

    cdef void go_on(self, const uint8_t *data, Py_ssize_t size, bint last) noexcept:
        pass

    cdef void refuse(self, int status) noexcept:
        pass

    cdef void refuse_head(self, int status) noexcept:
        pass

    cdef void cut_short(self) noexcept:
        pass

    cdef void half_closed(self) noexcept:
        pass

    cdef void _count_head(self, const uint8_t *data, Py_ssize_t size, int status) noexcept:
        """A head is refused: count the limit that it met, if it met one."""
        cdef Py_ssize_t at, lines = 0, most = min(size, <Py_ssize_t>self.terms.limits.head_bytes)
        if status == 414:
            self.engine.counts.limit_request_line += 1
        elif status == 501 and self.engine.request.method_size > self.terms.limits.method_bytes:
            self.engine.counts.limit_method += 1
        elif status == 431:
            for at in range(most):
                lines += data[at] == 10
            if lines > <Py_ssize_t>self.terms.limits.fields + 1:
                self.engine.counts.limit_fields += 1
            else:
                self.engine.counts.limit_head += 1

    cdef Py_ssize_t consume(self, const uint8_t *data, Py_ssize_t size) noexcept:
        cdef fr_head *head = self.engine.request
        cdef Py_ssize_t at = 0, used
        cdef int verdict
        self.consuming = True
        while at < size and not self.closed:
            if self.state == FR_READ_HEAD:
                if self.writing_paused:  # answers wait for the client: no further one is asked for
                    self.hold()
                    break
                verdict = fr_scan_request(data + at, size - at, &self.searched, &self.terms.limits, head)
                if verdict == FR_SCAN_MORE:
                    break
                self.searched = 0
                if verdict != FR_SCAN_DONE:
                    self._count_head(data + at, size - at, -verdict)
                    self.refuse_head(-verdict)
                    at = size
                else:
                    at += head.head_size
                    at += self.begin(data + at - head.head_size, head, size - at)
            elif self.state == FR_READ_BODY:
                if self.phase < FR_PHASE_SENT:
                    self.hold()
                    break
                used = self._body(data + at, size - at)
                at = size if used < 0 else at + used
            elif self.state == FR_READ_HOLD:
                self.hold()
                break
            elif self.state == FR_READ_TUNNEL:
                self.arm(self.terms.tunnel_ms)
                self.go_on(data + at, size - at, False)
                at = size
            else:
                at = size
        self.consuming = False
        return at

    cdef void consume_kept(self) noexcept:
        cdef Py_ssize_t used
        if self.kept.size and not self.consuming and not self.closed:
            used = self.consume(self.kept.data, self.kept.size)
            fr_out_drop(&self.kept, used)
        if self.state == FR_READ_HEAD and self.kept.size and not self.closed:
            self.arm(self.terms.head_ms)

    cdef Py_ssize_t first_of_body(self, const fr_head *head, const uint8_t *data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t used
        if head.body != FR_BODY_LENGTH:
            memset(&self.chunked, 0, sizeof(self.chunked))
            return self._chunks(data, size)
        self.left = head.content_length
        used = size if <uint64_t>size <= self.left else <Py_ssize_t>self.left
        fr_out_put(&self.engine.out, data, used)
        self.left -= used
        if self.left == 0:
            self._is_in()
        return used

    cdef Py_ssize_t _body(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Pass on body bytes of the present request; -1: refused."""
        cdef fr_out *out = &self.engine.out
        cdef Py_ssize_t used
        if self.body == FR_BODY_LENGTH:
            used = size if <uint64_t>size <= self.left else <Py_ssize_t>self.left
            self.left -= used
            if self.left == 0:
                self._is_in()
            self.go_on(data, used, self.request_complete)
        else:
            used = self._chunks(data, size)
            if used >= 0:
                self.go_on(out.data, out.size, self.request_complete)
            fr_out_clear(out)
        if used >= 0 and not self.request_complete:
            self.arm(self.terms.body_ms)
        return used

    cdef Py_ssize_t _chunks(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Decode chunks and frame them anew into the scratch buffer; -1: refused."""
        cdef fr_out *out = &self.engine.out
        cdef uint64_t most = self.terms.body_bytes_max
        cdef size_t at = 0, run_at = 0, run_size = 0
        cdef int step
        while True:
            step = fr_chunked_next(&self.chunked, data, size, &at, &run_at, &run_size)
            if step == 1:
                self.body_bytes += run_size
                if most and self.body_bytes > most:
                    self.engine.counts.limit_body += 1
                    self.refuse(413)
                    return -1
                fr_out_chunk(out, data + run_at, run_size)
            elif step == 2:
                fr_out_text(out, b"0\r\n\r\n")
                self._is_in()
                return at
            elif step == 0:
                # A chunk over the limit is refused when it is announced, not when it has come.
                if most and self.chunked.left > most - self.body_bytes:
                    self.engine.counts.limit_body += 1
                    self.refuse(413)
                    return -1
                return at
            else:
                self.refuse(-step)
                return -1

    cdef void _is_in(self) noexcept:
        self.request_complete = True
        self.state = FR_READ_HOLD
        self.disarm()

    # ---- what the event loop calls -----------------------------------------------------------------------------

    def data_received(self, data):
        cdef bytes whole
        cdef Py_ssize_t used, size
        cdef bint partial
        if self.closed or self.state == FR_READ_DISCARD:
            return
        whole = <bytes>data if type(data) is bytes else bytes(data)
        size = PyBytes_GET_SIZE(whole)
        partial = self.kept.size > 0
        if partial:
            fr_out_put(&self.kept, PyBytes_AS_STRING(whole), size)
            used = self.consume(self.kept.data, self.kept.size)
            fr_out_drop(&self.kept, used)
        else:
            used = self.consume(<const uint8_t *>PyBytes_AS_STRING(whole), size)
            if used < size and not self.closed:
                fr_out_put(&self.kept, PyBytes_AS_STRING(whole) + used, size - used)
        if self.state == FR_READ_HEAD and self.kept.size and not self.closed and (not partial or used):
            self.arm(self.terms.head_ms)
        if self.kept.failed:
            self.abort(False)

    def eof_received(self):
        self.eof = True
        if self.closed:
            return None
        if self.state == FR_READ_HOLD:  # a half-close: the answer is still wanted
            return not self.tls or None
        if self.state == FR_READ_HEAD and self.kept.size:
            self.refuse_head(400)
        elif self.state == FR_READ_BODY:
            self.cut_short()
        elif self.state == FR_READ_TUNNEL:
            self.half_closed()
            return None if self.closed or self.tls else True
        return None
