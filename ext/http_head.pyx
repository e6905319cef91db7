"""http_head: the scanner of HTTP/1.1 heads (ext/fr_scan.h, fr_chunked.h, fr_cookie.h) as compiled functions, and shims
through which tests call it.

Not here: I/O and everything that is decided after a head is understood (http_relay).
Rules: the cdef functions touch no Python object. The shims copy what they scan into a block of exactly its size, so that
a sanitizer sees the first byte read too many; they are not for the data plane.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastroute.errors import DownstreamProtocolError, UpstreamProtocolError

cdef extern from "fr_scan.h" nogil:
    int fr_scan_request_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head)
    int fr_scan_response_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head)

cdef extern from "fr_chunked.h" nogil:
    int fr_chunked_run(fr_chunked *state, const uint8_t *data, size_t size, size_t *at, size_t *run_at, size_t *run_size)

cdef extern from "fr_cookie.h" nogil:
    Py_ssize_t fr_cookie_find(const uint8_t *data, const fr_head *head, const uint8_t *name, size_t name_size, size_t *value_at)


cdef int fr_scan_request(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head) noexcept nogil:
    return fr_scan_request_head(data, size, searched, limits, head)


cdef int fr_scan_response(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head) noexcept nogil:
    return fr_scan_response_head(data, size, searched, limits, head)


cdef int fr_chunked_next(fr_chunked *state, const uint8_t *data, size_t size, size_t *at, size_t *run_at, size_t *run_size) noexcept nogil:
    return fr_chunked_run(state, data, size, at, run_at, run_size)


cdef Py_ssize_t fr_cookie_value(const uint8_t *data, const fr_head *head, const uint8_t *name, size_t name_size, size_t *value_at) noexcept nogil:
    return fr_cookie_find(data, head, name, name_size, value_at)


METHODS = ("", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH")
BODIES = ("none", "length", "chunked", "until-close")
FIELD_IDS = (
    "", "host", "content-length", "transfer-encoding", "connection", "cookie", "set-cookie", "expect", "upgrade", "keep-alive",
    "proxy-connection", "te", "trailer", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "date",
    "http2-settings", "proxy-authenticate", "proxy-authorization", "x-fastroute", "x-real-ip", "max-forwards", "content-type",
)


cdef fr_head_limits limits_of(object request_line_bytes, object head_bytes, object fields, object method_bytes) except *:
    cdef fr_head_limits limits
    limits.request_line_bytes = request_line_bytes
    limits.head_bytes = head_bytes
    limits.fields = fields
    limits.method_bytes = method_bytes
    return limits


cdef dict described(const uint8_t *data, const fr_head *head, bint request):
    cdef uint32_t i
    cdef const fr_field *field
    cdef list fields = []
    for i in range(head.field_count):
        field = &head.fields[i]
        fields.append((
            <bytes>data[field.name_at:field.name_at + field.name_size],
            <bytes>data[field.value_at:field.value_at + field.value_size],
            FIELD_IDS[field.id],
            bool(field.flags & FR_FIELD_HOP),
        ))
    cdef dict answer = {
        "head_size": head.head_size, "minor": head.minor, "body": BODIES[head.body], "content_length": head.content_length,
        "keep_alive": bool(head.keep_alive), "upgrade": bool(head.upgrade), "fields": fields,
    }
    if request:
        answer["method"] = <bytes>data[head.method_at:head.method_at + head.method_size]
        answer["method_known"] = METHODS[head.method]
        answer["target"] = <bytes>data[head.target_at:head.target_at + head.target_size]
        answer["path"] = <bytes>data[head.path_at:head.path_at + head.path_size]
        answer["authority"] = <bytes>data[head.authority_at:head.authority_at + head.authority_size]
        answer["expect_continue"] = bool(head.expect_continue)
    else:
        answer["status"] = head.status
        answer["reason"] = <bytes>data[head.reason_at:head.reason_at + head.reason_size]
    return answer


cdef object scan(bytes data, bint request, fr_head_limits *limits, object splits):
    cdef fr_head *head = <fr_head *>malloc(sizeof(fr_head))
    cdef uint8_t *block
    cdef size_t searched = 0, size
    cdef int verdict = FR_SCAN_MORE
    if head == NULL:
        raise MemoryError
    try:
        for size in (*splits, len(data)):
            if size > <size_t>len(data):
                raise ValueError("a split lies behind the data")
            block = <uint8_t *>malloc(size or 1)
            if block == NULL:
                raise MemoryError
            try:
                memcpy(block, <const char *>data, size)
                memset(head, 0xA5, sizeof(fr_head))  # nothing may be expected of the struct
                if request:
                    verdict = fr_scan_request_head(block + (0 if size else 1), size, &searched, limits, head)
                else:
                    verdict = fr_scan_response_head(block + (0 if size else 1), size, &searched, limits, head)
                if verdict == FR_SCAN_DONE:
                    return described(block, head, request)
            finally:
                free(block)
            if verdict < 0:
                if request:
                    raise DownstreamProtocolError("the request head is refused", status_hint=-verdict)
                raise UpstreamProtocolError("the response head is refused", server="", phase="response", retryable=False)
        return None
    finally:
        free(head)


def scan_request(bytes data, *, object request_line_bytes=8192, object head_bytes=32768, object fields=100,
                 object method_bytes=64, object splits=()):
    """Scan a request head; splits are the sizes after which the scanner is asked, rising, before the whole.

    Returns:
        None while bytes are missing, else what was found: method, target, path, authority, minor, fields (name, value,
        id, hop), body, content_length, keep_alive, expect_continue, upgrade, head_size.

    Raises:
        DownstreamProtocolError: refused; status_hint is the status that answers it.
    """
    cdef fr_head_limits limits = limits_of(request_line_bytes, head_bytes, fields, method_bytes)
    return scan(data, True, &limits, splits)


def scan_response(bytes data, *, object status_line_bytes=8192, object head_bytes=32768, object fields=100, object splits=()):
    """Scan a response head, as scan_request does.

    Raises:
        UpstreamProtocolError: refused; the client gets 502.
    """
    cdef fr_head_limits limits = limits_of(status_line_bytes, head_bytes, fields, 0)
    return scan(data, False, &limits, splits)


def decode_chunked(bytes data, *, object splits=()):
    """Decode a chunked body that begins at data[0] and comes in pieces that end at `splits`.

    Returns:
        (body bytes so far, bytes consumed, whether the body ended).

    Raises:
        DownstreamProtocolError: refused.
    """
    cdef fr_chunked state
    cdef size_t at, run_at = 0, run_size = 0, start = 0, size
    cdef uint8_t *block
    cdef int verdict = 0
    cdef list runs = []
    memset(&state, 0, sizeof(state))
    for size in (*splits, len(data)):
        if size < start or size > <size_t>len(data):
            raise ValueError("splits must rise and lie within the data")
        block = <uint8_t *>malloc(size - start or 1)
        if block == NULL:
            raise MemoryError
        try:
            memcpy(block, <const char *>data + start, size - start)
            at = 0
            while True:
                verdict = fr_chunked_run(&state, block, size - start, &at, &run_at, &run_size)
                if verdict != 1:
                    break
                runs.append(<bytes>block[run_at:run_at + run_size])
        finally:
            free(block)
        start += at
        if verdict < 0:
            raise DownstreamProtocolError("the chunked body is refused", status_hint=-verdict)
        if verdict == 2:
            break
    return b"".join(runs), start, verdict == 2


def cookie_value(bytes head_bytes, bytes name):
    """Value of a cookie in a complete request head, or None."""
    cdef fr_head *head = <fr_head *>malloc(sizeof(fr_head))
    cdef fr_head_limits limits = limits_of(0, 0, 0, 0)
    cdef size_t searched = 0, value_at = 0
    cdef const uint8_t *data = <const uint8_t *><const char *>head_bytes
    cdef Py_ssize_t size
    if head == NULL:
        raise MemoryError
    try:
        if fr_scan_request_head(data, len(head_bytes), &searched, &limits, head) != FR_SCAN_DONE:
            raise ValueError("not a complete and acceptable request head")
        size = fr_cookie_find(data, head, <const uint8_t *><const char *>name, len(name), &value_at)
        return None if size < 0 else <bytes>data[value_at:value_at + <size_t>size]
    finally:
        free(head)


def scan_time_ns(bytes data, uint32_t rounds, *, bint request=True):
    """Nanoseconds one scan of a complete head takes, over `rounds` scans; for benchmarks."""
    cdef fr_head *head = <fr_head *>malloc(sizeof(fr_head))
    cdef fr_head_limits limits = limits_of(8192, 32768, 100, 64)
    cdef size_t searched
    cdef const uint8_t *block = <const uint8_t *><const char *>data
    cdef size_t size = len(data)
    cdef uint32_t i, done = 0
    cdef timespec begin, end
    if head == NULL:
        raise MemoryError
    try:
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &begin)
            for i in range(rounds):
                searched = 0
                if request:
                    done += fr_scan_request_head(block, size, &searched, &limits, head) == FR_SCAN_DONE
                else:
                    done += fr_scan_response_head(block, size, &searched, &limits, head) == FR_SCAN_DONE
            clock_gettime(CLOCK_MONOTONIC, &end)
        if done != rounds:
            raise ValueError("not a complete and acceptable head")
        return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / max(rounds, 1)
    finally:
        free(head)
