# cython: language_level=3
"""recv(2), send(2) and accept(2) for sockets that never block.

What `os.read` and `os.write` are to the plain Python form of `sockets.py`, less what those do for files that
may block: let other threads run meanwhile (a worker has none) and keep 64 KiB ready for each read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "sys/socket.h":
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int AF_INET, AF_INET6, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef extern from "netinet/in.h":
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    unsigned short ntohs(unsigned short value)
    unsigned int ntohl(unsigned int value)

cdef extern from "arpa/inet.h":
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

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


cdef union _Address:
    sockaddr any
    sockaddr_in four
    sockaddr_in6 six


def accept(int fd):
    """Return (descriptor, address as `socket.accept` gives it) of the next connection, which will not block.
    Raises `OSError`, `BlockingIOError` if there is none."""
    cdef _Address address
    cdef socklen_t size = sizeof(address)
    cdef char text[64]
    cdef int got = accept4(fd, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if got < 0:
        PyErr_SetFromErrno(OSError)
    if address.four.sin_family == AF_INET:
        inet_ntop(AF_INET, &address.four.sin_addr, text, sizeof(text))
        return got, (text.decode("ascii"), ntohs(address.four.sin_port))
    if address.four.sin_family == AF_INET6:
        inet_ntop(AF_INET6, &address.six.sin6_addr, text, sizeof(text))
        scope = address.six.sin6_scope_id
        return got, (
            text.decode("ascii"), ntohs(address.six.sin6_port), ntohl(address.six.sin6_flowinfo), scope
        )
    return got, None
