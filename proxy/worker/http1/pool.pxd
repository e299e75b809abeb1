# cython: language_level=3
# The types of pool.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.policy.backends cimport Backend
from proxy.worker.http1.upstream cimport UpstreamConnection
from proxy.worker.state cimport HotSettings, WorkerState
cimport cython

cdef int _UPSTREAM_REUSES

@cython.locals(connection=UpstreamConnection)
cpdef UpstreamConnection take(WorkerState state, Backend backend)

@cython.locals(backend=Backend, hot=HotSettings, idle_s=double)
cpdef give_back(WorkerState state, UpstreamConnection connection)
