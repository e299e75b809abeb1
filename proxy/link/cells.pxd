# cython: language_level=3
# The types of cells.py, for the compiler only. Without them the same source runs as plain Python.

cdef extern from *:
    """
    /* Where the memory of a view begins. A pointer, because a typed memoryview would bring 20,000 lines of
       machinery into each module that counts. */
    static inline long long *anyport_memory(PyObject *view) {
        return (long long *)PyMemoryView_GET_BUFFER(view)->buf;
    }
    """
    long long *memoryview "anyport_memory"(object view)

cdef int _DURATION_SUM_US, _REQUEST_BYTES, _RESPONSE_BYTES


cdef class Cells:
    cdef object _owner
    cdef long long *_cells
    cpdef add(self, int cell, long long amount)
    cpdef finish(self, int cell, int bucket, long long elapsed_us, long long rx_bytes, long long tx_bytes)
