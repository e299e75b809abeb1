# cython: language_level=3
# The types of state.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.link.cells cimport Cells
from proxy.policy.backends cimport Table
from proxy.worker.http1.head cimport HeadLimits
from proxy.worker.sockets cimport Poller


cdef class HotSettings:
    cdef readonly double client_idle_s, request_body_s, response_head_s, response_idle_s, tunnel_idle_s, upstream_idle_s
    cdef readonly HeadLimits heads
    cdef readonly long long requests_per_connection, requests_per_upstream_connection
    cdef readonly Py_ssize_t idle_connections_per_backend
    cdef readonly bint logs_all, logs_errors


cdef class WorkerState:
    cdef readonly Cells head, no_service
    cdef readonly Table table
    cdef readonly object loop, tasks, settings, log, client_tls, backend_tls, report
    cdef readonly object random
    cdef readonly HotSettings hot
    cdef readonly Poller poller
    cdef public double now_s
    cdef public bint draining
    cdef readonly set watched, clients
    cdef readonly long long clients_share
    cdef object _heartbeat
    cdef bytes _id_prefix
    cdef unsigned long long _id_counter
    cpdef bytes next_request_id(self)
