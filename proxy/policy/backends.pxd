# cython: language_level=3
# The types of backends.py, for the compiler only. Without them the same source runs as plain Python.

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
    cdef readonly object counters
    cdef public tuple eligible, answering, backends
    cdef readonly RetryBudget retries


cdef class RetryBudget:
    cdef long long _window, _requests, _retries
    cpdef note_request(self, double now_s)
    cdef _turn_to(self, long long window)
