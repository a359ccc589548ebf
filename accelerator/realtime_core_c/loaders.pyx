# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Dicts of Python values of whole rows: realtime_core._row_loader's work, compiled.

A row that was not cut yet is read out of its message.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.dict cimport PyDict_Copy, PyDict_DelItem, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8

from realtime_core_c._fields cimport next_field
from realtime_core_c._slots cimport place_of
from realtime_core_c.rows cimport HEAD
from realtime_core_c.values cimport (
    ARRAY,
    DATE,
    JSON,
    Kind,
    NUMERIC,
    OTHER,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    element_of,
    kind_of,
    missed,
    parse,
    parse_bytes,
)

from realtime_core.errors import ValueConversionError
from realtime_core.records import UNCHANGED, Record

__all__ = ["RowLoader", "as_python"]

cdef extern from "Python.h":
    """
    /* A try statement takes longer for each field than most parsers do. */
    static PyObject *value_or(PyObject *value, PyObject *missed) {
        if (value == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_Clear();
            Py_INCREF(missed);
            return missed;
        }
        return value;
    }
    """
    object value_or(PyObject *value, object missed)

# The parsers, as functions whose errors are looked at here.
ctypedef PyObject *(*ParseBytes)(Kind, const unsigned char *, Py_ssize_t) noexcept
ctypedef PyObject *(*Parse)(Kind, Kind, PyObject *) noexcept

cdef object unchanged = UNCHANGED
cdef object RecordClass = Record
# Where a record has its fields, or the message of which they are cut when they are asked for.
cdef Py_ssize_t RECORD_FIELDS = Record.fields.slot

# These kinds have infinite values, which Python has not.
DATES = bytes([DATE, TIMESTAMP, TIMESTAMPTZ])
INFINITE = frozenset(["infinity", "-infinity"])


cdef inline bint is_textual(Kind kind) noexcept:
    """Say whether values are made of a text as an object."""
    return kind == NUMERIC or kind == JSON or kind == ARRAY or kind == OTHER


cdef class RowLoader:
    """Makes dicts of Python values of whole rows, as ``Record.as_python`` does.

    Args:
        names: the names of the columns.
        types: for each column the name of its type, if that is a built-in one.
        functions: for each column, the function that converts its texts.
        convert: takes a column's place and a field, and converts it or raises what is wrong.
    """

    cdef tuple names
    cdef tuple functions
    cdef object convert
    cdef dict nulls
    cdef bytes kinds
    cdef bytes elements

    def __init__(self, names, types, functions, convert):
        self.names = tuple(names)
        self.functions = tuple(functions)
        self.convert = convert
        self.nulls = dict.fromkeys(self.names)
        # Types whose texts are their values are known by their function.
        self.kinds = bytes(
            [
                TEXT if function is str else kind_of(name)
                for name, function, _ in zip(types, functions, names, strict=True)
            ]
        )
        self.elements = bytes([element_of(name) for name in types])

    def __call__(self, fields, bint omit_unchanged, on_error):
        cdef tuple row = tuple(fields)
        cdef Py_ssize_t width = PyTuple_GET_SIZE(self.names)
        cdef Py_ssize_t place
        cdef object field
        cdef object value
        if PyTuple_GET_SIZE(row) != width:
            list(zip(self.names, row, strict=True))  # raises the error
        # A copy has room for all columns, so that it need not grow.
        cdef dict values = PyDict_Copy(self.nulls)
        for place in range(width):
            field = <object>PyTuple_GET_ITEM(row, place)
            if field is None:
                continue
            if field is unchanged:
                self.put_unchanged(values, place, omit_unchanged)
                continue
            value = missed
            if PyUnicode_CheckExact(field):
                value = self.value(place, field)
            if value is missed:
                value = self.otherwise(place, field, on_error)
            PyDict_SetItem(values, <object>PyTuple_GET_ITEM(self.names, place), value)
        return values

    cdef dict load(self, bytes message, bint omit_unchanged, object on_error):
        """Do the same with a row that was not cut yet; None if the message is of another width."""
        cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(message)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t width = PyTuple_GET_SIZE(self.names)
        cdef const unsigned char *kinds = <const unsigned char *>PyBytes_AS_STRING(self.kinds)
        cdef Py_ssize_t at = HEAD
        cdef Py_ssize_t length
        cdef Py_ssize_t place
        cdef unsigned char form
        cdef object field
        cdef object value
        if size < HEAD or (start[HEAD - 2] << 8 | start[HEAD - 1]) != width:
            return None
        cdef dict values = PyDict_Copy(self.nulls)
        for place in range(width):
            form = next_field(start, size, &at, &length)
            if form == c'n':
                continue
            if form == c'u':
                self.put_unchanged(values, place, omit_unchanged)
                continue
            value = missed
            if form == c't':
                if not is_textual(<Kind>kinds[place]):
                    value = value_or(
                        (<ParseBytes><void *>parse_bytes)(<Kind>kinds[place], start + at, length),
                        missed,
                    )
                if value is missed:
                    field = PyUnicode_DecodeUTF8(<const char *>start + at, length, NULL)
                    if is_textual(<Kind>kinds[place]):
                        value = self.value(place, field)
                    if value is missed:
                        value = self.otherwise(place, field, on_error)
            elif form == c'b':
                field = PyBytes_FromStringAndSize(<const char *>start + at, length)
                value = self.otherwise(place, field, on_error)
            else:
                return None
            at += length
            PyDict_SetItem(values, <object>PyTuple_GET_ITEM(self.names, place), value)
        return values

    cdef inline object value(self, Py_ssize_t place, object text):
        """Return the value of a text; ``missed`` if this cannot tell."""
        return value_or(
            (<Parse><void *>parse)(
                <Kind>(<const unsigned char *>PyBytes_AS_STRING(self.kinds))[place],
                <Kind>(<const unsigned char *>PyBytes_AS_STRING(self.elements))[place],
                <PyObject *>text,
            ),
            missed,
        )

    cdef inline int put_unchanged(self, dict values, Py_ssize_t place, bint omit) except -1:
        cdef object name = <object>PyTuple_GET_ITEM(self.names, place)
        if omit:
            PyDict_DelItem(values, name)
        else:
            PyDict_SetItem(values, name, unchanged)
        return 0

    cdef object otherwise(self, Py_ssize_t place, object field, object on_error):
        """Convert a field by what the library has in Python."""
        if PyUnicode_CheckExact(field):
            # Whole columns may be infinite, and to make an error of each would take 10 µs.
            if on_error == "text" and field in INFINITE and self.kinds[place] in DATES:
                return field
            try:
                return self.functions[place](field)
            except Exception:
                pass
        try:
            return self.convert(place, field)
        except ValueConversionError as error:
            if on_error == "raise":
                raise
            return field if on_error == "text" else on_error(error)


# Record.as_python


def as_python(self, *, omit_unchanged=False, on_error="raise"):
    if on_error != "raise" and on_error != "text" and not callable(on_error):
        raise ValueError(f"on_error must be 'raise', 'text' or a function, not {on_error!r}")
    if not isinstance(self, RecordClass):
        raise TypeError(f"{type(self).__name__} is no Record")
    cdef object load = self.shape.load
    cdef PyObject *fields = place_of(self, RECORD_FIELDS)[0]
    cdef dict values
    if type(load) is RowLoader and fields is not NULL and PyBytes_CheckExact(<object>fields):
        values = (<RowLoader>load).load(<bytes>fields, omit_unchanged, on_error)
        if values is not None:
            return values
    return load(self.fields, omit_unchanged, on_error)


as_python.__doc__ = Record.as_python.__doc__
Record.as_python = as_python
