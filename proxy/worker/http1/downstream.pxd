# cython: language_level=3
# The types of downstream.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.worker.http1.exchange cimport Exchange
from proxy.worker.http1.head cimport HeadLimits, RequestHead
from proxy.worker.state cimport WorkerState
cimport cython

cdef bytes _BLANK_LINE
cdef int _HEAD, _BODY, _WAIT, _LINGER, _OVER, _LEADING_EMPTY_LINES_MAX


cdef class ClientConnection:
    cdef WorkerState _state
    cdef Exchange _exchange
    cdef readonly object write, writelines
    cdef object _transport, _header, _chunks, _progress
    cdef bytes _buffer, _forwarding_end, _scheme
    cdef str _peer
    cdef int _port, _phase, _empty_lines
    cdef Py_ssize_t _scanned
    cdef long long _left, _unsent_bytes, _requests
    cdef double _old_at_s
    cdef bint _awaits_continue, _eof, _paused, _trusted
    cdef public bint keep_alive
    cdef readonly bint full
    cdef public double deadline_s

    cpdef bytes request_bytes(self, RequestHead head, bytes request_id)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    @cython.locals(exchange=Exchange)
    cpdef on_exchange_end(self)
    cdef _hold_back(self)
    cdef _go_on(self)
    cpdef cut(self)
    cpdef data_received(self, bytes data)
    @cython.locals(state=WorkerState, heads=HeadLimits, head=RequestHead, exchange=Exchange, end=Py_ssize_t, alone=bint, length="long long")
    cdef _on_head_bytes(self, bytes data)
    cdef _start_body(self, Exchange exchange, RequestHead head, bytes rest)
    @cython.locals(state=WorkerState, exchange=Exchange)
    cdef _on_body_bytes(self, bytes data)
    cdef tuple _take_body(self, bytes data)
    cdef bytes _skip_empty_lines(self, bytes data)
    cdef _refuse(self, object refusal)
    cdef _linger(self)
    cdef _forget(self)
