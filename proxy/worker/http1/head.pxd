# cython: language_level=3
# The types of head.py, for the compiler only. Without them the same source runs as plain Python.
cimport cython

cdef bytes _GET
cdef object _MALFORMED
cdef unsigned long long _LENGTH_MAX
cdef bytes _CLASS, _REQUEST_SHAPES, _RESPONSE_SHAPES
cdef dict _REQUEST_FIELDS, _RESPONSE_FIELDS, _COMMON_CONNECTION
cdef frozenset _NOT_SERVED, _METHODS_WITH_BODY, _CONNECTION_OPTIONS, _NOT_NOMINABLE, _KEEP_ALIVE_ALONE
cdef int _TOKEN_BIT, _VALUE_BIT, _TARGET_BIT, _NAME_BIT, _DIGIT_BIT, _ID_BIT, _REQUEST_ID_BYTES_MAX, _NAME_BYTES_MAX, _LENGTH_DIGITS_MAX
cdef int _HOST_FIELD, _LENGTH, _CODING, _CONNECTION, _UPGRADE, _EXPECT, _DROP, _REFUSE
cdef int _FORWARDED_FOR, _FORWARDED_PROTO, _ID, _KEEP_ALIVE


@cython.final
cdef class HeadLimits:
    cdef readonly Py_ssize_t request_line_bytes, request_head_bytes, request_header_bytes, request_headers
    cdef readonly Py_ssize_t response_head_bytes, response_headers


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class RequestHead:
    cdef readonly bytes lines, method, target, path, host, upgrade, request_id, forwarded_for, forwarded_proto
    cdef readonly int minor
    cdef readonly Py_ssize_t size
    cdef readonly long long length
    cdef readonly bint keep_alive, expects_continue


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class ResponseHead:
    cdef readonly bytes lines, upgrade
    cdef readonly int status, keep_alive_s
    cdef readonly long long length
    cdef readonly bint keep_alive


@cython.locals(end=Py_ssize_t)
cpdef Py_ssize_t find_end(bytes buffer, Py_ssize_t start, Py_ssize_t limit) except -2

@cython.locals(last=int)
cdef Py_ssize_t _blank_line(const unsigned char *data, Py_ssize_t at, Py_ssize_t size)
cdef Py_ssize_t _token_end(const unsigned char *data, Py_ssize_t at)
cdef Py_ssize_t _value_end(const unsigned char *data, Py_ssize_t at)

@cython.locals(
    request=RequestHead, raw="const unsigned char *", size=Py_ssize_t, at=Py_ssize_t, target_at=Py_ssize_t, query_at=Py_ssize_t,
    name_at=Py_ssize_t, colon=Py_ssize_t, kept_at=Py_ssize_t, anew=bint,
    name_bytes=Py_ssize_t, count=int, minor=int, length="long long", length_in_place=bint, keep_alive=bint,
    method=bytes, target=bytes, value=bytes, name=bytes, added=bytes, spans=list, field_bytes_max=Py_ssize_t,
)
cpdef RequestHead parse_request(bytes head, HeadLimits limits)

@cython.locals(
    response=ResponseHead, raw="const unsigned char *", size=Py_ssize_t, at=Py_ssize_t, line_end=Py_ssize_t, name_at=Py_ssize_t,
    colon=Py_ssize_t, kept_at=Py_ssize_t, anew=bint, last=Py_ssize_t, name_bytes=Py_ssize_t,
    count=int, minor=int, status=int, length="long long", follows="long long", coding=bint, no_length=bint,
    keep_alive=bint, value=bytes, name=bytes, added=bytes, spans=list,
)
cpdef ResponseHead parse_response(bytes head, bytes method, HeadLimits limits)

cdef bytes _joined(list spans, bytes added)
cdef _write_request_line(RequestHead request)

@cython.locals(size=Py_ssize_t, at=Py_ssize_t)
cdef bint _is_request_id(bytes value)

cdef bytes _trimmed(const unsigned char *data, Py_ssize_t start, Py_ssize_t end)
cdef _check_upgrade(RequestHead request)
cdef _drop_nominated(RequestHead request, frozenset tokens)
cdef frozenset _connection_tokens(bytes value)

@cython.locals(size=Py_ssize_t, at=Py_ssize_t, port=int)
cdef bint _is_host(bytes value) except -1

@cython.locals(size=Py_ssize_t, at=Py_ssize_t, length="unsigned long long")
cdef long long _body_length(bytes value, object error) except -1
