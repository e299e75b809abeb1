# cython: language_level=3
# The types of backends.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.link.cells cimport Cells


cdef class Backend:
    cdef readonly tuple place
    cdef readonly Service service
    cdef readonly object row, tls
    cdef readonly str host, address
    cdef readonly int port
    cdef readonly bint answers, ready
    cdef public int in_flight
    cdef public double suspect_until_s
    cdef public list idle
    cdef public bint removed


cdef class Service:
    cdef readonly str name
    cdef readonly int slot
    cdef readonly Cells counters
    cdef public tuple eligible, answering, backends, rows
    cdef public object row
    cdef public dict by_place
    cdef readonly RetryBudget retries


cdef class Table:
    cdef object _counters_of, _rows
    cdef dict _services
    cdef readonly object router
    cdef readonly long long revision
    cdef readonly bint loaded


cdef class RetryBudget:
    cdef long long _window, _requests, _retries
    cpdef note_request(self, double now_s)
    cdef _turn_to(self, long long window)
