# mc_meta: memcached's meta protocol without sockets: the requests, on top of the queue of their replies.
# All calls hold the GIL; one event loop per codec.
from fastroute._core.mc_queue cimport MetaQueue
from fastroute._core.mc_reply cimport CasToken

cdef class MetaCodec(MetaQueue):
    cdef object _store(self, object key, object value, object ttl_s, object client_flags, char mode, CasToken token,
                       bint then_get, object touch_s=*)
