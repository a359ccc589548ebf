"""TupleData: reads the fields of a row, as fast as Python can.

Most of a stream is rows, and most of a row's time goes into its fields. :func:`read_fields` is
the plain loop over them. :func:`fields_reader` generates a function for a fixed number of fields,
with the loop unrolled: it needs no list, no counter and no bound methods, and takes half the
time. It reads text, NULL and unchanged TOAST; rows with binary fields, and rows that look wrong,
it hands to the plain loop, which is therefore also the reference in tests. So does the compiled
reader, which takes its place where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from struct import Struct, error
from typing import Final, NoReturn, TypeAlias

from .._implementation import IMPLEMENTATION
from ..errors import DecodeError, TruncatedMessageError
from ..records import UNCHANGED, Field
from .messages import Fields

__all__ = ["FieldsReader", "fields_reader", "read_fields", "read_tuple"]

FieldsReader: TypeAlias = Callable[[bytes, int], tuple[Fields, int]]
"""Takes a message and the offset of a tuple's first field, which stands behind the number of
fields; returns the fields and the offset behind the last one.

May raise struct.error, IndexError or UnicodeDecodeError besides DecodeError.
"""

_NULL: Final = ord("n")
_UNCHANGED: Final = ord("u")
_TEXT: Final = ord("t")
_BINARY: Final = ord("b")

_count_at: Final = Struct("!h").unpack_from
_length_at: Final = Struct("!i").unpack_from

_WIDEST: Final = 200
"""The most columns that a reader is generated for: wider tables are rare, and their code is
long."""


def read_tuple(data: bytes, offset: int) -> tuple[Fields, int]:
    """Read a TupleData of any width; it raises what a :data:`FieldsReader` does."""
    (columns,) = _count_at(data, offset)
    if columns < 0:
        raise DecodeError(f"negative number of columns {columns}")
    return read_fields(data, offset + 2, columns)


def read_fields(data: bytes, offset: int, columns: int) -> tuple[Fields, int]:
    """Read ``columns`` fields in a plain loop."""
    size = len(data)
    fields: list[Field] = []
    for _ in range(columns):
        kind = data[offset]
        offset += 1
        if kind in (_TEXT, _BINARY):
            (length,) = _length_at(data, offset)
            if length < 0:
                raise DecodeError(f"negative field length {length}")
            start = offset + 4
            offset = start + length
            if offset > size:
                raise TruncatedMessageError(
                    f"message ends after {size} bytes, a field needs {offset}"
                )
            value = data[start:offset]
            fields.append(value.decode() if kind == _TEXT else value)
        elif kind == _NULL:
            fields.append(None)
        elif kind == _UNCHANGED:
            fields.append(UNCHANGED)
        else:
            raise DecodeError(f"unknown kind of field {chr(kind)!r}")
    return tuple(fields), offset


# A field is one expression, which moves the offset `at` by assignment expressions. Lengths are
# read as unsigned: a negative one becomes so large that the next field, or the check at the end,
# finds the message too short. Then, and when a text is not UTF-8, the plain loop raises the error
# that says what is wrong. The try statement costs nothing unless something is raised.
_FIELD = (
    "data[(start := at + 5) : (at := start + length_behind(data, at)[0])].decode() "
    "if (kind := data[at]) == 116 else "
    "(at := at + 1) and None if kind == 110 else "
    "(at := at + 1) and UNCHANGED if kind == 117 else "
    "other(), "
)
_FIELDS = """\
def read(data, offset):
    at = offset
    try:
        fields = ({fields})
    except (IndexError, UnicodeDecodeError, error):
        return read_fields(data, offset, {columns})
    if at > len(data):
        return read_fields(data, offset, {columns})
    return fields, at
"""


@cache
def fields_reader(columns: int) -> FieldsReader:
    """Return the fastest reader for ``columns`` fields."""
    if IMPLEMENTATION == "c":
        from realtime_core_c.rows import fields_reader

        return fields_reader(columns, read_fields)
    if not 0 < columns <= _WIDEST:
        return partial(read_fields, columns=columns)
    source = _FIELDS.format(fields=_FIELD * columns, columns=columns)
    names = {
        "UNCHANGED": UNCHANGED,
        "error": error,
        # The pad byte x steps over the field's kind.
        "length_behind": Struct("!xI").unpack_from,
        "other": _other,
        "read_fields": read_fields,
    }
    exec(compile(source, "<reader of fields>", "exec"), names)
    reader: FieldsReader = names["read"]  # type: ignore[assignment]
    return reader


def _other() -> NoReturn:
    raise IndexError("not a kind of field that is read here")
