# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Python values of the texts of fields: realtime_core.types' work, compiled.

Each parser here takes exactly what PostgreSQL writes with the settings of the sources' sessions. It
returns ``missed`` for any other text, which is then read, or refused, by the function in Python.
"""

import uuid
from datetime import timezone
from decimal import Decimal
from json import JSONDecoder

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.datetime cimport date_new, datetime_new, import_datetime, time_new
from cpython.list cimport PyList_Append
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8, PyUnicode_Substring
from libc.string cimport memcpy

from realtime_core_c._slots cimport fill, new, slot_of

__all__ = ["text_function"]

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    int PyUnicode_KIND(object)
    void *PyUnicode_DATA(object)
    Py_UCS4 PyUnicode_READ(int, void *, Py_ssize_t)
    object PyLong_FromLongLong(long long)
    object PyLong_FromUnsignedLongLong(unsigned long long)
    double PyOS_string_to_double(const char *, char **, PyObject *) except? -1.0

import_datetime()

cdef object missed = object()
cdef object utc = timezone.utc
cdef object decimal = Decimal
cdef object scan_json = JSONDecoder().scan_once
cdef object UUID = uuid.UUID
cdef object unknown_safety = uuid.SafeUUID.unknown
cdef Py_ssize_t UUID_INT = slot_of(UUID, "int")
cdef Py_ssize_t UUID_IS_SAFE = slot_of(UUID, "is_safe")

cdef enum:
    # PostgreSQL writes no float in more characters.
    LONGEST_FLOAT = 40

KINDS = {
    "bool": BOOL,
    "bytea": BYTEA,
    "date": DATE,
    "float4": FLOAT,
    "float8": FLOAT,
    "int2": INT,
    "int4": INT,
    "int8": INT,
    "json": JSON,
    "jsonb": JSON,
    "numeric": NUMERIC,
    "oid": INT,
    "text": TEXT,
    "time": TIME,
    "timestamp": TIMESTAMP,
    "timestamptz": TIMESTAMPTZ,
    "uuid": UUID_KIND,
    "varchar": TEXT,
}
# JSON is left out: an array of it is rare, and its elements have many quotes.
ARRAYS = {f"_{name}": kind for name, kind in KINDS.items() if kind not in (JSON, BYTEA)}


# Texts in bytes. One that is longer or shorter than its type's is missed before it is read.


cdef inline int digit(unsigned char character) noexcept:
    """Return the digit's value, or at least 10."""
    return <unsigned char>(character - c'0')


cdef inline int two(const unsigned char *at) noexcept:
    """Return the value of two digits, or 1000."""
    cdef int tens = digit(at[0])
    cdef int ones = digit(at[1])
    return 1000 if tens > 9 or ones > 9 else 10 * tens + ones


cdef object parse_int(const unsigned char *at, Py_ssize_t size):
    cdef long long value = 0
    cdef bint negative
    cdef Py_ssize_t place
    if size == 0:
        return missed
    negative = at[0] == c'-'
    if negative:
        at += 1
        size -= 1
    # Eighteen digits fit into 64 bits.
    if not 0 < size <= 18:
        return missed
    for place in range(size):
        if digit(at[place]) > 9:
            return missed
        value = 10 * value + digit(at[place])
    return PyLong_FromLongLong(-value if negative else value)


cdef object parse_bool(const unsigned char *at, Py_ssize_t size):
    if size != 1:
        return missed
    return True if at[0] == c't' else False if at[0] == c'f' else missed


cdef inline int nibble(unsigned char character) noexcept:
    """Return the value of a hexadecimal digit, or -1."""
    if digit(character) < 10:
        return digit(character)
    character |= 0x20
    return character - c'a' + 10 if c'a' <= character <= c'f' else -1


cdef object parse_bytea(const unsigned char *at, Py_ssize_t size):
    cdef Py_ssize_t place
    cdef int high, low
    cdef bytes value
    cdef char *to
    if size < 2 or size % 2 or at[0] != c'\\' or at[1] != c'x':
        return missed
    value = PyBytes_FromStringAndSize(NULL, size // 2 - 1)
    to = PyBytes_AS_STRING(value)
    for place in range(1, size // 2):
        high, low = nibble(at[2 * place]), nibble(at[2 * place + 1])
        if high < 0 or low < 0:
            return missed
        to[place - 1] = <char>(16 * high + low)
    return value


cdef object parse_uuid(const unsigned char *at, Py_ssize_t size):
    cdef unsigned long long halves[2]
    cdef Py_ssize_t place
    cdef int count = 0
    cdef int value
    cdef object found
    if size != 36:
        return missed
    halves[0] = halves[1] = 0
    for place in range(36):
        if place == 8 or place == 13 or place == 18 or place == 23:
            if at[place] != c'-':
                return missed
            continue
        value = nibble(at[place])
        if value < 0:
            return missed
        halves[count // 16] = halves[count // 16] << 4 | <unsigned int>value
        count += 1
    found = new(UUID)
    fill(
        found,
        UUID_INT,
        PyLong_FromUnsignedLongLong(halves[0]) << 64 | PyLong_FromUnsignedLongLong(halves[1]),
    )
    fill(found, UUID_IS_SAFE, unknown_safety)
    return found


# Dates and times: YYYY-MM-DD, HH:MM:SS, and up to six digits of a second behind a dot.


cdef bint read_date(const unsigned char *at, int *year, int *month, int *day) noexcept:
    cdef int century = two(at)
    cdef int rest = two(at + 2)
    if century > 99 or rest > 99 or at[4] != c'-' or at[7] != c'-':
        return False
    year[0], month[0], day[0] = 100 * century + rest, two(at + 5), two(at + 8)
    return 0 < year[0] <= 9999 and 0 < month[0] <= 12 and 0 < day[0] <= 31


cdef bint read_time(
    const unsigned char *at, Py_ssize_t size, int *hour, int *minute, int *second, int *fraction
) noexcept:
    cdef Py_ssize_t place
    if not (size == 8 or 10 <= size <= 15) or at[2] != c':' or at[5] != c':':
        return False
    hour[0], minute[0], second[0], fraction[0] = two(at), two(at + 3), two(at + 6), 0
    if size > 8:
        if at[8] != c'.':
            return False
        for place in range(9, 15):
            if place >= size:
                fraction[0] *= 10
            elif digit(at[place]) > 9:
                return False
            else:
                fraction[0] = 10 * fraction[0] + digit(at[place])
    return hour[0] < 24 and minute[0] < 60 and second[0] < 60


cdef object parse_date(const unsigned char *at, Py_ssize_t size):
    cdef int year, month, day
    if size != 10 or not read_date(at, &year, &month, &day):
        return missed
    return date_new(year, month, day)


cdef object parse_time(const unsigned char *at, Py_ssize_t size):
    cdef int hour, minute, second, fraction
    if not read_time(at, size, &hour, &minute, &second, &fraction):
        return missed
    return time_new(hour, minute, second, fraction, None)


cdef object parse_timestamp(const unsigned char *at, Py_ssize_t size, bint in_utc):
    cdef int year, month, day, hour, minute, second, fraction
    if in_utc:
        size -= 3
    if size < 19 or at[10] != c' ':
        return missed
    if in_utc and (at[size] != c'+' or at[size + 1] != c'0' or at[size + 2] != c'0'):
        return missed
    if not read_date(at, &year, &month, &day) or not read_time(
        at + 11, size - 11, &hour, &minute, &second, &fraction
    ):
        return missed
    return datetime_new(
        year, month, day, hour, minute, second, fraction, utc if in_utc else None
    )


cdef object parse_float(const unsigned char *at, Py_ssize_t size):
    cdef char copy[LONGEST_FLOAT + 1]
    if not 0 < size <= LONGEST_FLOAT:
        return missed
    memcpy(copy, at, size)
    copy[size] = 0
    # What is too large for a float is looked at in Python.
    return PyOS_string_to_double(copy, NULL, <PyObject *>ValueError)


# Values of all kinds


cdef object parse_bytes(Kind kind, const unsigned char *at, Py_ssize_t size):
    """Return the value of a text in UTF-8; ``missed`` if this cannot tell. It may raise, too."""
    if kind == TEXT:
        return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
    if kind == INT:
        return parse_int(at, size)
    if kind == FLOAT:
        return parse_float(at, size)
    if kind == TIMESTAMPTZ:
        return parse_timestamp(at, size, True)
    if kind == TIMESTAMP:
        return parse_timestamp(at, size, False)
    if kind == BOOL:
        return parse_bool(at, size)
    if kind == UUID_KIND:
        return parse_uuid(at, size)
    if kind == DATE:
        return parse_date(at, size)
    if kind == TIME:
        return parse_time(at, size)
    if kind == BYTEA:
        return parse_bytea(at, size)
    return missed


cdef object parse(Kind kind, Kind element, object text):
    """Do what :func:`parse_bytes` does with a text of any type."""
    if kind == TEXT:
        return text
    if kind == NUMERIC:
        return decimal(text)
    if kind == JSON:
        return parse_json(text)
    if kind == ARRAY:
        return parse_array(element, text)
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return missed
    return parse_bytes(
        kind, <const unsigned char *>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text)
    )


cdef object parse_json(object text):
    cdef tuple found = scan_json(text, 0)
    if <Py_ssize_t>found[1] != PyUnicode_GET_LENGTH(text):
        return missed
    return found[0]


# Arrays of one dimension: {a,"b c",NULL}


cdef object parse_array(Kind element, object text):
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    cdef int width = PyUnicode_KIND(text)
    cdef void *data = PyUnicode_DATA(text)
    cdef Py_ssize_t at = 1
    cdef Py_ssize_t start
    cdef Py_UCS4 character
    cdef list values = []
    cdef object item
    if size < 2 or PyUnicode_READ(width, data, 0) != c'{':
        return missed
    if size == 2:
        return values if PyUnicode_READ(width, data, 1) == c'}' else missed
    while True:
        # Here an element begins.
        start = at
        if at < size and PyUnicode_READ(width, data, at) == c'"':
            at += 1
            while at < size:
                character = PyUnicode_READ(width, data, at)
                if character == c'"':
                    break
                at += 2 if character == c'\\' else 1
            if at >= size:
                return missed
            item = PyUnicode_Substring(text, start + 1, at)
            at += 1
            if "\\" in item:
                item = without_escapes(item)
        else:
            while at < size:
                character = PyUnicode_READ(width, data, at)
                if character == c',' or character == c'}':
                    break
                if character <= c' ' or character == c'{' or character == c'"' or character == c'\\':
                    return missed
                at += 1
            item = PyUnicode_Substring(text, start, at)
            if item == "NULL":
                item = None
            elif not item or item.upper() == "NULL":
                return missed
        if item is not None:
            item = parse_element(element, item)
            if item is missed:
                return missed
        PyList_Append(values, item)
        if at >= size:
            return missed
        character = PyUnicode_READ(width, data, at)
        at += 1
        if character == c'}':
            return values if at == size else missed
        if character != c',':
            return missed


cdef object parse_element(Kind kind, object text):
    """Do what :func:`parse` does, for elements, which Python's functions would not be asked."""
    cdef const unsigned char *at
    cdef Py_ssize_t place
    if kind == FLOAT or kind == NUMERIC:
        if not PyUnicode_IS_COMPACT_ASCII(text):
            return missed
        at = <const unsigned char *>PyUnicode_DATA(text)
        for place in range(PyUnicode_GET_LENGTH(text)):
            if digit(at[place]) > 9 and at[place] not in b".-+e":
                return missed
    return parse(kind, OTHER, text)


cdef str without_escapes(str quoted):
    """Return an element's text without the backslashes that PostgreSQL has put before characters."""
    cdef list parts = []
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t at = quoted.find("\\")
    while at >= 0:
        parts.append(quoted[start:at])
        start = at + 1
        at = quoted.find("\\", start + 1)
    parts.append(quoted[start:])
    return "".join(parts)


# What the library calls


cdef class TextFunction:
    """A function that converts the texts of one type.

    Args:
        name: the type's ``pg_type.typname``.
        function: the function in Python, which is asked what is missed here; None if there is none.
    """

    cdef Kind kind
    cdef Kind element
    cdef object function

    def __init__(self, str name, function):
        self.function = function
        self.kind = kind_of(name)
        self.element = element_of(name)

    def __call__(self, text):
        if PyUnicode_CheckExact(text):
            try:
                value = parse(self.kind, self.element, text)
            except Exception:
                value = missed
            if value is not missed:
                return value
        if self.function is None:
            raise ValueError("not a text as PostgreSQL writes it")
        return self.function(text)


def text_function(str name, function):
    """Return a function that does what ``function`` does, and more; or that one for other types."""
    return function if kind_of(name) == OTHER else TextFunction(name, function)


cdef Kind kind_of(str name) except *:
    return ARRAY if name in ARRAYS else KINDS.get(name, OTHER)


cdef Kind element_of(str name) except *:
    return ARRAYS.get(name, OTHER)
