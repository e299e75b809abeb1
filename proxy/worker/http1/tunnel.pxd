# cython: language_level=3
# The types of tunnel.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.worker.http1.exchange cimport Exchange
from proxy.worker.http1.frames cimport FrameTracker
from proxy.worker.state cimport WorkerState


cdef class Tunnel:
    cdef WorkerState _state
    cdef Exchange _exchange
    cdef FrameTracker _frames
    cdef _End _client, _upstream
    cdef bint _over, _said
    cdef long long _unsent_bytes
    cdef readonly bint goodbye_wanted
    cdef public double deadline_s
    cpdef touch(self)
    cpdef on_frames(self)


cdef class _End:
    cdef readonly Tunnel _tunnel
    cdef readonly object transport
    cdef _End _other
    cdef object _write
    cdef readonly long long received_bytes
    cdef readonly bint ended, lost
    cpdef data_received(self, bytes data)


cdef class _WebSocketEnd(_End):
    cdef FrameTracker _frames
