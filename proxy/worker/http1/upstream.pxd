# cython: language_level=3
# The types of upstream.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.policy.backends cimport Backend
from proxy.worker.http1.exchange cimport Exchange
from proxy.worker.http1.head cimport HeadLimits, ResponseHead
from proxy.worker.state cimport WorkerState
cimport cython

cdef int _IDLE, _HEAD, _BODY, _OVER, _INTERIM_MAX
cdef double _ON_ITS_WAY_S


cdef class UpstreamConnection:
    cdef WorkerState _state
    cdef readonly Backend backend
    cdef public Exchange exchange
    cdef public double deadline_s
    cdef public long long served
    cdef readonly double idle_max_s
    cdef bint reusable, _paused
    cdef int _phase, _interim
    cdef readonly int fileno
    cdef bytes _buffer
    cdef Py_ssize_t _scanned
    cdef long long _left
    cdef object _chunks, _transport
    cdef readonly object write, writelines

    cpdef begin(self, Exchange exchange, bytes data, bytes body)
    cpdef await_head(self)
    cpdef rest(self, double deadline_s)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef close(self)
    cpdef abort(self)
    cpdef data_received(self, bytes data)
    @cython.locals(
        exchange=Exchange, buffer=bytes, body=bytes, head=ResponseHead, heads=HeadLimits, end=Py_ssize_t, extra=bint, ended=bint
    )
    cdef _on_head_bytes(self, bytes data)
    @cython.locals(exchange=Exchange, payload=bytes)
    cdef _on_body_bytes(self, bytes data)
    cdef _end(self, Exchange exchange, bint extra)
    cdef _leave_pool(self)
    cdef _forget(self)
