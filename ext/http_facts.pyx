"""What is known of the present request apart from its way: whose it is, its id, and what the access log will say of it.

Not here: where it goes (http_attempt), the form of a line (fr_log.h). Rules of this file: nothing of it runs for a request of a
peer that is not trusted, without request ids, access log and hooks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from fastroute._core.http_fields cimport (
    FR_PIECE_CLIENT_IP, FR_PIECE_REASON, FR_PIECE_REQUEST_ID, FR_PIECE_SCHEME, FR_PIECE_SERVER, FR_PIECES, FR_PIECES_MAX, fr_fields_drop, fr_hex_put,
    fr_is_request_id, fr_text, FieldRules,
)
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_log cimport FR_LOG_FIELD_MAX, FR_LOG_TARGET_MAX, fr_log_record
from fastroute._core.http_reading cimport Reading
from fastroute._core.http_routes cimport Networks, fr_network
from fastroute._core.http_wire cimport fr_now_ns, fr_out, fr_out_clear, fr_out_free, fr_out_put

cdef extern from "fr_forward.h" nogil:
    long fr_find_field(const uint8_t *data, const fr_head *head, const char *name, size_t name_size, size_t *value_at) noexcept

cdef extern from "fr_forwarded.h" nogil:
    enum: INET6_ADDRSTRLEN
    size_t fr_forwarded_client(const uint8_t *data, const fr_head *head, const fr_network *trusted, uint32_t trusted_count, int by_forwarded, char *text) noexcept


cdef class Facts(Reading):
    """One client connection, and what is known of its present request."""

    def __dealloc__(self):
        fr_out_free(&self.noted)

    cdef void find_client(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef char text[INET6_ADDRSTRLEN]
        cdef Networks trusts = self.terms.trusts
        cdef size_t size = fr_forwarded_client(data, head, trusts.items, trusts.count, self.terms.forwarded, text)
        if size == 0:
            self.client = self.peer
        elif <size_t>PyBytes_GET_SIZE(self.client) != size or memcmp(PyBytes_AS_STRING(self.client), text, size) != 0:
            self.client = PyBytes_FromStringAndSize(text, size)

    cdef void name_it(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef fr_text *name = &self.terms.id_name
        cdef uint8_t noise[16]
        cdef size_t at = 0
        cdef long size = fr_find_field(data, head, <const char *>name.data, name.size, &at)
        if size >= 0:
            fr_fields_drop(data, self.engine.request, name, 1)
        if self.trusted and size > 0 and fr_is_request_id(data + at, size):
            memcpy(self.id, data + at, size)
            self.id_size = <int>size
        else:
            self.engine.random(noise, sizeof(noise))
            fr_hex_put(self.id, noise, sizeof(noise))
            self.id_size = 2 * sizeof(noise)

    cdef void fill_values(self, fr_text *values) noexcept:
        memset(values, 0, FR_PIECES * sizeof(fr_text))
        values[FR_PIECE_CLIENT_IP].data, values[FR_PIECE_CLIENT_IP].size = <const uint8_t *>PyBytes_AS_STRING(self.client), PyBytes_GET_SIZE(self.client)
        values[FR_PIECE_REQUEST_ID].data, values[FR_PIECE_REQUEST_ID].size = self.id, self.id_size
        values[FR_PIECE_SCHEME].data, values[FR_PIECE_SCHEME].size = <const uint8_t *>b"https", 5 if self.terms.tls else 4

    cdef void note(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef fr_out *out = &self.noted
        cdef size_t at = 0
        cdef long size
        self.logged = True
        self.status = 0
        self.written_before, self.head_out = self.written, 0
        self.noted_ns = fr_now_ns()
        memset(self.noted_sizes, 0, sizeof(self.noted_sizes))
        fr_out_clear(out)
        if head is NULL:
            self.id_size = 0
            return
        self.minor = head.minor != 0
        self.noted_sizes[0] = head.method_size
        fr_out_put(out, data + head.method_at, head.method_size)
        self.noted_sizes[1] = min(head.target_size, <uint32_t>FR_LOG_TARGET_MAX)
        fr_out_put(out, data + head.target_at, self.noted_sizes[1])
        self.noted_sizes[2] = min(head.authority_size, <uint32_t>FR_LOG_FIELD_MAX)
        fr_out_put(out, data + head.authority_at, self.noted_sizes[2])
        size = fr_find_field(data, head, b"user-agent", 10, &at)
        if size > 0:
            self.noted_sizes[3] = <uint32_t>min(size, <long>FR_LOG_FIELD_MAX)
            fr_out_put(out, data + at, self.noted_sizes[3])
        size = fr_find_field(data, head, b"referer", 7, &at)
        if size > 0:
            self.noted_sizes[4] = <uint32_t>min(size, <long>FR_LOG_FIELD_MAX)
            fr_out_put(out, data + at, self.noted_sizes[4])
        if out.failed:
            memset(self.noted_sizes, 0, sizeof(self.noted_sizes))

    cdef void log_it(self, int retries) noexcept:
        cdef fr_log_record one
        cdef fr_text values[FR_PIECES_MAX]
        cdef fr_text *parts[5]
        cdef bytes pool = self.route.name
        cdef size_t at = 0
        cdef int i
        self.logged = False
        memset(&one, 0, sizeof(one))
        self.fill_values(values)
        parts[0], parts[1], parts[2], parts[3], parts[4] = &one.method, &one.target, &one.host, &one.agent, &one.referer
        for i in range(5):
            parts[i].data, parts[i].size = self.noted.data + at, self.noted_sizes[i]
            at += self.noted_sizes[i]
        one.client, one.id = values[FR_PIECE_CLIENT_IP], values[FR_PIECE_REQUEST_ID]
        one.server, one.reason = values[FR_PIECE_SERVER], values[FR_PIECE_REASON]
        one.listener.data, one.listener.size = <const uint8_t *>PyBytes_AS_STRING(self.terms.name), PyBytes_GET_SIZE(self.terms.name)
        one.pool.data, one.pool.size = <const uint8_t *>PyBytes_AS_STRING(pool), PyBytes_GET_SIZE(pool)
        one.minor, one.retries, one.tcp = self.minor, retries, self.raw
        one.status = self.status if self.status else 499  # nobody was left to be answered; the number is nginx's
        one.bytes = self.written - self.written_before
        one.bytes -= min(one.bytes, self.head_out)
        one.duration_ns = fr_now_ns() - self.noted_ns
        self.terms.log.put(&one)

    cdef int ask_hook(self, const uint8_t *data, const fr_head *head) noexcept:
        self.hooked = self.page = self.hook_fields = self.hook_key = None
        try:
            asked = self.terms.hooks.request(
                _text(data, head.method_at, head.method_size), _text(data, head.target_at, head.target_size),
                _text(data, head.authority_at, head.authority_size), self.client.decode("latin-1"), _fields(data, head),
                self.id[:self.id_size].decode("latin-1"), self.route.name.decode("ascii"))
            self.hooked, self.page, self.hook_fields, self.hook_key = asked, asked.page, asked.rules, asked.key
            if asked.route is not None:
                self.route = asked.route
            return asked.status
        except Exception as error:
            self.report(error)
        return 0

    cdef FieldRules ask_response_hook(self, const uint8_t *data, const fr_head *head, object server):
        try:
            return self.terms.hooks.response(self.hooked, head.status, _fields(data, head), server)
        except Exception as error:
            self.report(error)
        return None

    cdef void report(self, error) noexcept:
        try:
            self.engine.loop.call_exception_handler({"message": "fastroute: unexpected error in the relay", "exception": error})
        except Exception:
            pass


cdef str _text(const uint8_t *data, size_t at, size_t size):
    return PyUnicode_DecodeLatin1(<const char *>data + at, size, NULL)


cdef list _fields(const uint8_t *data, const fr_head *head):
    cdef list found = []
    cdef unsigned int i
    for i in range(head.field_count):
        found.append((_text(data, head.fields[i].name_at, head.fields[i].name_size),
                      _text(data, head.fields[i].value_at, head.fields[i].value_size)))
    return found
