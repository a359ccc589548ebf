"""TupleData: the fields of a row, read as fast as Python can.

Most of a stream is rows, and most of a row's time goes into its fields. :func:`read_tuple`
is the plain loop. :func:`tuple_reader` makes a function for rows of one width, with the loop
unrolled: no list, no counter, no bound method calls, half the time. It takes the common
cases, text and NULL, and leaves every other field, and everything that looks wrong, to the
plain loop, which is therefore also the tests' reference. :func:`insert_reader` does the same
for the whole of an Insert, of which most streams have most: a quarter less again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from struct import Struct, error
from typing import Any, Final, TypeAlias

from ..errors import DecodeError, TruncatedMessageError
from ..records import UNCHANGED, Field
from .messages import Fields, InsertMessage, Message

__all__ = ["InsertReader", "TupleReader", "insert_reader", "read_tuple", "tuple_reader"]

TupleReader: TypeAlias = Callable[[bytes, int], tuple[Fields, int]]
"""Takes a message and the offset of its tuple; returns the fields and the offset behind it.

May raise struct.error, IndexError or UnicodeDecodeError besides DecodeError.
"""

InsertReader: TypeAlias = Callable[[bytes], Message]
"""Takes a whole Insert message that carries no xid. May raise the same."""

_NULL: Final = ord("n")
_UNCHANGED: Final = ord("u")
_TEXT: Final = ord("t")
_BINARY: Final = ord("b")

_count_at: Final = Struct("!h").unpack_from
_length_at: Final = Struct("!i").unpack_from

_WIDEST: Final = 200
"""Columns up to which a reader is generated; beyond, code gets long and rows get rare."""


def read_tuple(data: bytes, offset: int) -> tuple[Fields, int]:
    """Read a TupleData of any width."""
    (count,) = _count_at(data, offset)
    if count < 0:
        raise DecodeError(f"negative number of columns {count}")
    offset += 2
    size = len(data)
    fields: list[Field] = []
    for _ in range(count):
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


# Lengths are read unsigned: a negative one becomes so large that the next field, or the
# check at the end, finds the message too short. Then, and when a cut text is not UTF-8, the
# plain loop says what is wrong. A try costs nothing unless it is needed.
_FIELD = """\
        if data[at] == 116:
            end = at + 5 + length_behind(data, at)[0]
            {name} = data[at + 5 : end].decode()
            at = end
        elif data[at] == 110:
            {name} = None
            at += 1
        else:
            return {otherwise}
"""
_TUPLE = """\
def read(data, start):
    if data[start : start + 2] != {width!r}:
        return read_tuple(data, start)
    at = start + 2
    try:
{fields}
    except (IndexError, UnicodeDecodeError, error):
        return read_tuple(data, start)
    if at > len(data):
        return read_tuple(data, start)
    return ({names}), at
"""
_INSERT = """\
def read(data):
    if data[5:8] != {head!r}:
        return otherwise(data)
    at = 8
    try:
{fields}
    except (IndexError, UnicodeDecodeError, error):
        return otherwise(data)
    if at != len(data):
        return otherwise(data)
    return InsertMessage({oid}, ({names}), None)
"""


@cache
def tuple_reader(columns: int) -> TupleReader:
    """Return the fastest reader for rows of ``columns`` columns. It reads others too."""
    if not 0 < columns <= _WIDEST:
        return read_tuple
    names, fields = _unrolled(columns, "read_tuple(data, start)")
    width = columns.to_bytes(2, "big")
    source = _TUPLE.format(width=width, fields=fields, names=names)
    reader: TupleReader = _compiled(source, {"read_tuple": read_tuple})
    return reader


def insert_reader(oid: int, columns: int, otherwise: InsertReader) -> InsertReader:
    """Return the fastest reader for whole Insert messages of one relation.

    Args:
        oid: of the relation.
        columns: how many it has.
        otherwise: reads what is not of that width, or not common, or wrong.
    """
    if not 0 < columns <= _WIDEST:
        return otherwise
    names, fields = _unrolled(columns, "otherwise(data)")
    head = b"N" + columns.to_bytes(2, "big")
    source = _INSERT.format(head=head, fields=fields, oid=oid, names=names)
    reader: InsertReader = _compiled(
        source, {"otherwise": otherwise, "InsertMessage": InsertMessage}
    )
    return reader


def _unrolled(columns: int, otherwise: str) -> tuple[str, str]:
    """Return the fields' names, as of a tuple, and the code that reads them."""
    names = [f"f{place}" for place in range(columns)]
    fields = "".join(_FIELD.format(name=name, otherwise=otherwise) for name in names)
    return "".join(f"{name}, " for name in names), fields


def _compiled(source: str, names: dict[str, object]) -> Any:
    # The pad byte is the field's kind.
    namespace = {"error": error, "length_behind": Struct("!xI").unpack_from, **names}
    exec(compile(source, "<reader of rows>", "exec"), namespace)
    return namespace["read"]
