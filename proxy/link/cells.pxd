# cython: language_level=3
# The types of cells.py, for the compiler only. Not for other modules to cimport: the view of the memory
# would bring its machinery into each of them.

cdef int _DURATION_SUM_US, _REQUEST_BYTES, _RESPONSE_BYTES


cdef class Cells:
    cdef long long[::1] _cells
    cpdef add(self, int cell, long long amount)
    cpdef finish(self, int cell, int bucket, long long elapsed_us, long long rx_bytes, long long tx_bytes)
