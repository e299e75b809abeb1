# cython: language_level=3
# The types of exchange.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.policy.backends cimport Backend, Service
from proxy.worker.http1.downstream cimport ClientConnection
from proxy.worker.http1.head cimport RequestHead, ResponseHead
from proxy.worker.http1.upstream cimport UpstreamConnection
from proxy.worker.state cimport WorkerState
cimport cython

cdef int _IN_FLIGHT

cdef int _AS_IS, _CHUNKS, _RAW, _APART_BYTES


@cython.freelist(64)
cdef class Exchange:
    cdef WorkerState _state
    cdef ClientConnection _client
    cdef readonly RequestHead head
    cdef readonly double started_s
    cdef readonly bytes request_id
    cdef readonly Service service
    cdef readonly Backend backend
    cdef Backend _held
    cdef UpstreamConnection _upstream
    cdef list _tried
    cdef readonly int attempts
    cdef readonly bint delivered, over, request_ended
    cdef object delivered_error
    cdef bytes _out, _out_body
    cdef bint _out_complete
    cdef readonly int status
    cdef readonly object error, detail
    cdef int _mode
    cdef readonly long long rx_bytes, tx_bytes

    @cython.locals(state=WorkerState, head=RequestHead, service=Service)
    cpdef start(self, bytes body, bint ended)
    cpdef on_request_body(self, bytes payload, bint ended)
    cdef _try(self, Backend backend, object connect_left_s=*)
    cdef _send_on(self, UpstreamConnection connection)
    @cython.locals(client=ClientConnection, request=RequestHead, added=bytes, apart=bint)
    cpdef on_response(self, ResponseHead head, bytes body, bint ended)
    cpdef on_response_body(self, bytes data)
    cpdef on_response_end(self, UpstreamConnection connection, bint reusable)
    cdef bint _body_is_read(self, UpstreamConnection connection)
    cdef _leave_backend(self)
    cdef bint _stopped(self)
    cdef _finish(self)
