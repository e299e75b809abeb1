# cython: language_level=3
# The types of sockets.py, for the compiler only. Without them the same source runs as plain Python.

cdef object _accept, _read, _write, _writev
cdef int _FIN, _IN, _OUT, _EVENTS_MAX, _ACCEPTS_MAX, _READ_BYTES, _BULK_READ_BYTES, _PIECES_MAX, _HIGH_BYTES
cdef double _REST_S
cdef object _EXHAUSTED


cdef class Item:
    cdef public bint early
    cpdef on_ready(self, int mask)
    cpdef fail(self, object error)


cdef class Poller:
    cdef object _loop, _epoll, _poll
    cdef dict _items
    cdef list _ended
    cdef bint _behind, _serving, _sweeping
    cdef int _spare
    cdef readonly bint caught_up
    cpdef watch(self, Item item, object fd, int old, int new)
    cpdef forget(self, object fd)
    cpdef later(self, double delay_s, object call)
    cpdef retire(self, Stream stream)
    cpdef report(self, object error)
    cdef _tell(self, Item item, int mask)
    cpdef _sweep(self)


cdef class Stream(Item):
    cdef Poller _poller
    cdef object _sock, _fd, _protocol, _peername, _sockname, _error
    cdef int _mask, _read_bytes
    cdef Py_ssize_t _out_at, _out_bytes, _high, _low
    cdef bint _reading, _full, _closing, _eof, _said
    cdef list _out
    cpdef write(self, bytes data)
    cpdef close(self)
    cpdef abort(self)
    cpdef bury(self)
    cdef _socket(self)
    cdef _receive(self)
    cdef _flush(self)
    cdef _shut(self)
    cdef _break(self, object error)
    cdef _lose(self, object error)
    cdef _retire(self)
    cdef _watch(self)


cdef class Listener(Item):
    cdef Poller _poller
    cdef object _fd, _sock, _make, _on_turned_away, _sockname
    cdef int _mask
    cdef bint _open
    cpdef close(self)
    cdef bint _turn_away(self)
    cdef _rest(self)
    cpdef _wake(self)
    cdef _watch(self, int mask)
