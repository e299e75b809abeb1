# cython: language_level=3
# The types of record.py, for the compiler only. Without them the same source runs as plain Python.
cimport cython

from proxy.link.cells cimport Cells
from proxy.worker.http1.exchange cimport Exchange
from proxy.worker.state cimport WorkerState

cdef dict _METHOD_CELL
cdef int _OTHER_CELL, _DURATION, _FIRST_BUCKET_US


@cython.locals(elapsed_s=double, elapsed_us="long long", status=int, cells=Cells, cell=int, bucket=int)
cpdef record(WorkerState state, Exchange exchange)
