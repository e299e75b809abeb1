# cython: language_level=3
# The types of frames.py, for the compiler only. Without them the same source runs as plain Python.
cimport cython

cdef int _CLOSE, _INCOMPLETE


cdef class FrameTracker:
    cdef long long _left
    cdef bytes _partial
    cdef readonly bint closed

    @cython.locals(size="long long", left="long long")
    cpdef feed(self, bytes data)
    @cython.locals(at="long long", end="long long", following="long long")
    cdef _walk(self, bytes data)


@cython.locals(second=int, length="long long", head=int)
cdef long long _next(bytes data, long long at)
