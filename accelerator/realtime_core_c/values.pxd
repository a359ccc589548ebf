"""What other compiled modules use of the parsers of texts."""


cdef enum Kind:
    OTHER
    TEXT
    INT
    FLOAT
    NUMERIC
    BOOL
    BYTEA
    DATE
    TIME
    TIMESTAMP
    TIMESTAMPTZ
    UUID_KIND
    JSON
    ARRAY


cdef object missed
"""What a parser returns for a text that it cannot read."""

cdef Kind kind_of(str name) except *
cdef Kind element_of(str name) except *
cdef object parse_bytes(Kind kind, const unsigned char *at, Py_ssize_t size)
cdef object parse(Kind kind, Kind element, object text)
