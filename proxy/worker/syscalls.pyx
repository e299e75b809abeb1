# cython: language_level=3
"""recv(2) and send(2) for sockets that never block.

What `os.read` and `os.write` are to the plain Python form of `sockets.py`, less what those do for files that
may block: let other threads run meanwhile (a worker has none) and keep 64 KiB ready for each read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "sys/socket.h":
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef char _scratch[65536]


def read(int fd, Py_ssize_t size):
    """Return up to *size* bytes, b"" at the end of the stream. Raises `OSError`, `BlockingIOError` among them."""
    cdef ssize_t got
    cdef bytes data
    if size <= <Py_ssize_t>sizeof(_scratch):
        got = recv(fd, _scratch, size, MSG_DONTWAIT)
        if got < 0:
            PyErr_SetFromErrno(OSError)
        return PyBytes_FromStringAndSize(_scratch, got)
    data = PyBytes_FromStringAndSize(NULL, size)
    got = recv(fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT)
    if got < 0:
        PyErr_SetFromErrno(OSError)
    return data if got == size else data[:got]


def write(int fd, bytes data):
    """Return how many bytes of *data* the kernel has taken. Raises `OSError`."""
    cdef ssize_t sent = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent < 0:
        PyErr_SetFromErrno(OSError)
    return sent
