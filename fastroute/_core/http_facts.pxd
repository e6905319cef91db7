# http_facts: whose the present request is, its id, and what the access log will say of it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.http_fields cimport FieldRules, Page, fr_text
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_reading cimport Reading
from fastroute._core.http_route cimport Route
from fastroute._core.http_wire cimport fr_out

cdef class Facts(Reading):
    cdef bytes peer                     # address as text
    cdef bytes client                   # of the present request's client: the peer's, or whom a trusted peer speaks for
    cdef bint trusted                   # its forwarded fields count
    cdef readonly bint raw              # no request: bytes as they come, over a connection of their own
    cdef readonly Route route           # where the request goes; never None
    cdef uint8_t id[128]                # the request's, of id_size bytes
    cdef int id_size
    # Of an embedder's hooks.
    cdef object hooked                  # HookRequest
    cdef Page page                      # body of the hook's own answer
    cdef FieldRules hook_fields         # what it sets
    cdef bytes hook_key                 # the key that it names
    # For the access log.
    cdef fr_out noted                   # method, target, host, user agent, referer: noted_sizes
    cdef uint32_t noted_sizes[5]
    cdef uint64_t noted_ns              # when the request's head was there
    cdef uint64_t written_before        # `written` then
    cdef uint64_t head_out              # bytes of the answer's head
    cdef int status                     # of the answer; 0: none yet
    cdef bint logged, minor
    # Whom the trusted peer speaks for.
    cdef void find_client(self, const uint8_t *data, const fr_head *head) noexcept
    # The request's id: a trusted peer's, or a new one. The field that it came in does not go on.
    cdef void name_it(self, const uint8_t *data, const fr_head *head) noexcept
    # Ask on_request: a status to answer with, or 0; it may change the route, the key and fields.
    cdef int ask_hook(self, const uint8_t *data, const fr_head *head) noexcept
    # Ask on_response: fields to change, or None.
    cdef FieldRules ask_response_hook(self, const uint8_t *data, const fr_head *head, object server)
    # An exception that nobody expected: told to the event loop.
    cdef void report(self, error) noexcept
    # Keep what the access log says of the request; head NULL: of one that was not understood.
    cdef void note(self, const uint8_t *data, const fr_head *head) noexcept
    # The request is over: one line.
    cdef void log_it(self, int retries) noexcept
    # What rules say may be put into fields; server and reason only once they are known.
    cdef void fill_values(self, fr_text *values) noexcept
