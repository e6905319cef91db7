# http_head: strict scanner of HTTP/1.1 heads and chunked bodies (RFC 9112), sans-I/O. Filled structs: ext/fr_http.h.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_http.h" nogil:
    ctypedef struct fr_field:
        uint32_t name_at
        uint32_t value_at
        uint32_t value_size
        uint16_t name_size
        uint8_t id
        uint8_t flags
    ctypedef struct fr_head_limits:
        uint32_t request_line_bytes
        uint32_t head_bytes
        uint32_t fields
        uint32_t method_bytes
    ctypedef struct fr_head:
        uint32_t head_size
        uint32_t method_at
        uint32_t method_size
        uint32_t target_at
        uint32_t target_size
        uint32_t path_at
        uint32_t path_size
        uint32_t authority_at
        uint32_t authority_size
        uint32_t reason_at
        uint32_t reason_size
        uint16_t status
        uint16_t field_count
        uint8_t method
        uint8_t minor
        uint8_t body
        uint8_t keep_alive
        uint8_t expect_continue
        uint8_t upgrade
        uint64_t content_length
        fr_field *fields
    ctypedef struct fr_chunked:
        uint64_t left
        uint32_t line_size
        uint8_t state
        uint8_t digits
    enum: FR_SCAN_MORE
    enum: FR_SCAN_DONE
    enum: FR_BODY_NONE
    enum: FR_BODY_LENGTH
    enum: FR_BODY_CHUNKED
    enum: FR_BODY_UNTIL_CLOSE
    enum: FR_FIELD_HOP
    enum: FR_FIELD_OTHER
    enum: FR_FIELD_HOST
    enum: FR_FIELD_CONTENT_LENGTH
    enum: FR_FIELD_TRANSFER_ENCODING
    enum: FR_FIELD_CONNECTION
    enum: FR_FIELD_COOKIE
    enum: FR_FIELD_SET_COOKIE
    enum: FR_FIELD_EXPECT
    enum: FR_FIELD_UPGRADE
    enum: FR_FIELD_KEEP_ALIVE
    enum: FR_FIELD_PROXY_CONNECTION
    enum: FR_FIELD_TE
    enum: FR_FIELD_TRAILER
    enum: FR_FIELD_VIA
    enum: FR_FIELD_X_FORWARDED_FOR
    enum: FR_FIELD_X_FORWARDED_PROTO
    enum: FR_FIELD_X_FORWARDED_HOST
    enum: FR_FIELD_FORWARDED
    enum: FR_FIELD_DATE
    enum: FR_FIELD_HTTP2_SETTINGS
    enum: FR_FIELD_PROXY_AUTHENTICATE
    enum: FR_FIELD_PROXY_AUTHORIZATION
    enum: FR_FIELD_X_FASTROUTE
    enum: FR_FIELD_X_REAL_IP
    enum: FR_FIELD_MAX_FORWARDS
    enum: FR_FIELD_CONTENT_TYPE
    enum: FR_METHOD_OTHER
    enum: FR_METHOD_GET
    enum: FR_METHOD_HEAD
    enum: FR_METHOD_POST
    enum: FR_METHOD_PUT
    enum: FR_METHOD_DELETE
    enum: FR_METHOD_OPTIONS
    enum: FR_METHOD_TRACE
    enum: FR_METHOD_CONNECT
    enum: FR_METHOD_PATCH

# Scan a request head in data[0:size]. `searched` is what an earlier call with the same first bytes learned (0 at first,
# else opaque: position, line and counts packed), so that a head in N pieces costs O(size), not O(N x size). A verdict
# does not depend on where the pieces end. *head holds nothing between calls and is valid only after FR_SCAN_DONE.
# A limit of 0 is no limit (fields: FR_FIELDS_CAPACITY; head: 16 MiB). Returns a verdict of fr_http.h.
cdef int fr_scan_request(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head) noexcept nogil
cdef int fr_scan_response(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, fr_head *head) noexcept nogil
# Decode chunked framing: reads data[0:size] from *at on, up to one run of body bytes. Returns
#   1 a run: run_at, run_size are set (may repeat);  0 more bytes are needed;  2 the body ended (*at is behind it);  <0 refused.
# A zeroed state begins a body. Chunk extensions and trailer fields are checked and dropped. The caller limits the body.
cdef int fr_chunked_next(fr_chunked *state, const uint8_t *data, size_t size, size_t *at, size_t *run_at, size_t *run_size) noexcept nogil
# Value of cookie `name` in the Cookie fields, first found in order; -1: none, else its size and *value_at.
cdef Py_ssize_t fr_cookie_value(const uint8_t *data, const fr_head *head, const uint8_t *name, size_t name_size, size_t *value_at) noexcept nogil
