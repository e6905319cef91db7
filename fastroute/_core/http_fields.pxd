# http_fields: header rules and pages of errors, compiled: built once, then only read (fr_fields.h).
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from fastroute._core.http_head cimport fr_head

cdef extern from "fr_fields.h" nogil:
    enum: FR_PIECE_TEXT
    enum: FR_PIECE_CLIENT_IP
    enum: FR_PIECE_REQUEST_ID
    enum: FR_PIECE_HOST
    enum: FR_PIECE_SCHEME
    enum: FR_PIECE_SERVER
    enum: FR_PIECE_REASON
    enum: FR_PIECES
    ctypedef struct fr_text:
        const uint8_t *data
        size_t size
    ctypedef struct fr_piece:
        int kind
        fr_text text
    ctypedef struct fr_field_rules:
        const fr_text *drops
        uint32_t drop_count
        const fr_piece *pieces
        uint32_t piece_count
    void fr_fields_drop(const uint8_t *data, fr_head *head, const fr_text *names, uint32_t count) noexcept
    bint fr_is_request_id(const uint8_t *text, size_t size) noexcept
    void fr_hex_put(uint8_t *to, const uint8_t *from_, size_t size) noexcept

cdef enum:
    FR_PIECES_MAX = 7                   # not less than FR_PIECES, for arrays here

@cython.final
cdef class FieldRules:
    cdef fr_field_rules rules
    cdef list kept                      # owners of what the rules point to

@cython.final
cdef class Page:
    cdef fr_text head                   # Content-Type and Content-Length
    cdef fr_text body
    cdef tuple kept
