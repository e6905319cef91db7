"""Header rules and pages of errors, in the form in which messages are written.

Not here: what a configuration may say (fastroute.config.fields), how the rules of listener, pool and route are put together
(fastroute.proxy.fields). Rules of this file: nothing changes after __init__.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastroute.errors import InternalError

PIECES = {"client_ip": FR_PIECE_CLIENT_IP, "request_id": FR_PIECE_REQUEST_ID, "host": FR_PIECE_HOST, "scheme": FR_PIECE_SCHEME,
          "server": FR_PIECE_SERVER, "reason": FR_PIECE_REASON}
"""Places in a rule's text: name -> number."""


cdef class FieldRules:
    """What is taken out of a message and what is written into it.

    Args:
        drops: names of fields, in lower case.
        pieces: what is written, whole lines with their ends: bytes as they stand, and numbers of PIECES.
    """

    def __init__(self, drops, pieces):
        cdef fr_text *texts
        cdef fr_piece *parts
        drops, pieces = list(drops), list(pieces)
        self.kept = [*drops, *pieces]
        self.rules.drops = texts = <fr_text *>calloc(max(1, len(drops)), sizeof(fr_text))
        self.rules.pieces = parts = <fr_piece *>calloc(max(1, len(pieces)), sizeof(fr_piece))
        if texts is NULL or parts is NULL:
            raise MemoryError
        for i, name in enumerate(drops):
            texts[<int>i].data, texts[<int>i].size = <const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        for i, piece in enumerate(pieces):
            if isinstance(piece, bytes):
                parts[<int>i].kind = FR_PIECE_TEXT
                parts[<int>i].text.data = <const uint8_t *>PyBytes_AS_STRING(piece)
                parts[<int>i].text.size = PyBytes_GET_SIZE(piece)
            elif 0 < piece < FR_PIECES:
                parts[<int>i].kind = piece
            else:
                raise InternalError(f"{piece} is no place in a rule's text")
        self.rules.drop_count, self.rules.piece_count = len(drops), len(pieces)

    def __dealloc__(self):
        free(<void *>self.rules.drops)
        free(<void *>self.rules.pieces)


cdef class Page:
    """The body of an answer of our own, and the fields that speak of it.

    Args:
        body: bytes.
        content_type: value of Content-Type; "": no such field.
        fields: further fields, (name, value) each, checked by whoever made them.
    """

    def __init__(self, bytes body not None, str content_type="", fields=()):
        text = f"Content-Type: {content_type}\r\n" if content_type else ""
        text += "".join(f"{name}: {value}\r\n" for name, value in fields) + f"Content-Length: {len(body)}\r\n"
        cdef bytes head = text.encode("latin-1")
        self.kept = (head, body)
        self.head.data, self.head.size = <const uint8_t *>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head)
        self.body.data, self.body.size = <const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
