"""Record is the row of a change. Its fields are converted to Python values when they are read.

A row arrives as text. Most consumers read a few columns of a few rows. So a record keeps the fields
as they came and converts a field when it is read. What all rows of a relation have in common is in
a Shape.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, overload

from ._data_classes import frozen
from .errors import ValueConversionError

__all__ = ["UNCHANGED", "Column", "Field", "OnError", "Record", "Shape", "Unchanged"]


T = TypeVar("T")

if TYPE_CHECKING:
    from ._row_loader import OnErrorOrWord, RowLoader
    from .types.python_values import Converter

    # An enum, because type checkers know that ``is`` tells the members of an enum apart.
    class Unchanged(enum.Enum):
        """The type of :data:`UNCHANGED`."""

        UNCHANGED = ...

else:
    # At run time it is not an enum, because drivers and JSON encoders write an enum's name or
    # value. It has no attributes, because some of them write the attributes of an object.
    class Unchanged:
        """The type of :data:`UNCHANGED`."""

        __slots__ = ()

        def __new__(cls) -> Unchanged:
            return cls.UNCHANGED

        def __repr__(self) -> str:
            return "UNCHANGED"

        def __str__(self) -> str:
            raise TypeError(_NO_VALUE)

        def __bool__(self) -> bool:
            raise TypeError(_NO_VALUE)

        def __reduce__(self) -> str:
            return "UNCHANGED"

    Unchanged.UNCHANGED = object.__new__(Unchanged)

UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a TOASTed value that an UPDATE did not change and that PostgreSQL did not send.

It is not NULL: the row has a value, but the message does not have it. Test for it with
``is UNCHANGED``, or leave out such columns with ``omit_unchanged=True`` of
:meth:`Record.as_python` and :meth:`Record.as_text`.

It cannot be written by mistake: drivers and encoders do not know its type, and both ``str()``,
which others use (``csv``, an f-string, ``print``), and ``bool()`` raise :exc:`TypeError`.
``repr()`` works, so that it can be logged with ``%r`` or ``{value!r}``.
"""

_NO_VALUE: Final = (
    "UNCHANGED is no value: the UPDATE left a large value as it was, and PostgreSQL did not send"
    " it; test for it with 'is UNCHANGED', or leave such columns out with"
    " row.as_python(omit_unchanged=True) or row.as_text(omit_unchanged=True)"
)

Field: TypeAlias = str | bytes | Unchanged | None
"""One field of a row: a text; bytes, with ``binary 'true'``; None for NULL; or UNCHANGED."""


OnError: TypeAlias = Callable[[ValueConversionError], Any]
"""A function that returns what :meth:`Record.as_python` puts in place of a value that has no Python
value."""


@frozen
class Column:
    """A column of a relation, as the stream describes it."""

    name: str
    """The column's name."""
    type_oid: int
    """The OID of the column's type; for a domain, the domain's. 0 (InvalidOid) from wal2json
    without ``include-type-oids``."""
    type_name: str
    """``pg_type.typname`` of the column's type, such as ``int4``, or ``_text`` for an array; for a
    domain, that of its base type."""
    type_schema: str
    """The schema of the type that ``type_name`` names; empty from wal2json for types that are not
    built in."""
    type_modifier: int
    """``atttypmod``, such as the length of a varchar; -1 if the type has none."""
    is_key: bool
    """Whether the column belongs to the replica identity. With REPLICA IDENTITY FULL all columns
    do."""


class Shape:
    """The parts that all rows with the same columns share: names, their places, converters."""

    __slots__ = (
        "columns",
        "converters",
        "index",
        "load",
        "makers",
        "names",
        "readers",
        "table",
    )

    def __init__(self, columns: tuple[Column, ...], table: str = "") -> None:
        self.columns = columns
        self.table = table
        """The table, with its schema, for errors."""
        self.names = tuple(column.name for column in columns)
        self.index = {name: place for place, name in enumerate(self.names)}
        # Made at the first typed access: decoding alone needs no driver.
        self.converters: list[Converter | None] = [None] * len(columns)
        # These functions replace themselves when they are called for the first time. For each
        # column its place, and the function that converts its common texts:
        self.readers: dict[str, tuple[int, Callable[[str], Any]]] = {
            name: (place, partial(self._first_text, place)) for place, name in enumerate(self.names)
        }
        # The function that does what Record.as_python says with the fields of a row:
        self.load: RowLoader = self._first_load
        # By class, what makes objects of it of the fields of all columns; None if nothing does.
        self.makers: dict[type, Callable[..., Any] | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Shape, (self.columns, self.table)

    def convert(self, place: int, value: str | bytes) -> Any:
        """Convert a field, a text or bytes, to its Python value.

        Raises:
            ValueConversionError: if the field has no Python value.
        """
        converter = self.converters[place]
        if converter is None:
            # Programs that only decode do not need it, and it takes as long to import as this.
            from .types.python_values import make_converter

            column = self.columns[place]
            converter = make_converter(
                *(column.name, column.type_oid, column.type_name, column.type_schema),
                table=self.table,
            )
            self.converters[place] = converter
        return converter(value)

    def text_function(self, place: int) -> Callable[[str], Any]:
        """Return the fastest function that converts the texts of a column."""
        from .types.python_values import text_function

        column = self.columns[place]
        found = text_function(column.type_oid, column.type_name, column.type_schema)
        return found or partial(self.convert, place)

    def _first_text(self, place: int, text: str) -> Any:
        convert = self.text_function(place)
        self.readers[self.names[place]] = place, convert
        return convert(text)

    def _first_load(
        self, fields: tuple[Field, ...], omit_unchanged: bool, on_error: OnErrorOrWord
    ) -> dict[str, Any]:
        from ._row_loader import row_loader

        self.load = row_loader(self)
        return self.load(fields, omit_unchanged, on_error)


class Record(Mapping[str, Any]):
    """A row, as a mapping from the names of columns to Python values.

    ``record["id"]`` returns the value that psycopg would return: an int, Decimal, datetime, list
    and so on. NULL is None, and a TOASTed value that did not change is :data:`UNCHANGED`.

    Two records are equal if the names of their columns and their fields are, before conversion.

    Raises:
        KeyError: when a column is read that the record does not have.
        ValueConversionError: when a value is read that has no Python value (``infinity``, years
            before 1 or after 9999, ``24:00:00``).
    """

    __slots__ = ("fields", "shape")

    def __init__(self, shape: Shape, fields: tuple[Field, ...]) -> None:
        self.shape = shape
        self.fields = fields
        """The fields before conversion, in the order of ``shape.columns``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (self.shape, self.fields)

    def __getitem__(self, name: str) -> Any:
        place, convert = self.shape.readers[name]
        value = self.fields[place]
        if value is None or value is UNCHANGED:
            return value
        if type(value) is str:
            try:
                return convert(value)
            except Exception:
                # The converter for values of any kind raises the error that says why.
                pass
        return self.shape.convert(place, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shape.names)

    def __len__(self) -> int:
        return len(self.shape.names)

    def __contains__(self, name: object) -> bool:
        return name in self.shape.index

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self.shape.names == other.shape.names and self.fields == other.fields
        return Mapping.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pairs = (f"{name}={field!r}" for name, field in zip(self, self.fields, strict=True))
        return f"Record({', '.join(pairs)})"

    def raw(self, name: str) -> Field:
        """Return a field before conversion: a text, bytes, None or UNCHANGED.

        Raises:
            KeyError: if the record does not have the column.
        """
        return self.fields[self.shape.index[name]]

    def text(self, name: str) -> str | Unchanged | None:
        """Return PostgreSQL's text of a field, None or UNCHANGED.

        Raises:
            KeyError: if the record does not have the column.
            ValueConversionError: if the field was sent in binary.
        """
        place = self.shape.index[name]
        return self._text(place, self.fields[place])

    @overload
    def as_text(
        self, *, omit_unchanged: Literal[False] = ...
    ) -> dict[str, str | Unchanged | None]: ...
    @overload
    def as_text(self, *, omit_unchanged: Literal[True]) -> dict[str, str | None]: ...
    @overload
    def as_text(self, *, omit_unchanged: bool) -> dict[str, str | Unchanged | None]: ...

    def as_text(self, *, omit_unchanged: bool = False) -> Any:
        """Return all fields as :meth:`text` does.

        Args:
            omit_unchanged: whether to leave out the columns that are :data:`UNCHANGED`, which an
                UPDATE of a copy must not set.

        Raises:
            ValueConversionError: if a field was sent in binary.
        """
        fields = self.fields
        if bytes in map(type, fields):
            for place, field in enumerate(fields):
                self._text(place, field)
        pairs = zip(self.shape.names, fields, strict=True)
        if omit_unchanged:
            return {name: field for name, field in pairs if field is not UNCHANGED}
        return dict(pairs)

    def as_python(
        self,
        *,
        omit_unchanged: bool = False,
        on_error: OnErrorOrWord = "raise",
    ) -> dict[str, Any]:
        """Return all fields as ``record[name]`` does.

        Args:
            omit_unchanged: whether to leave out the columns that are :data:`UNCHANGED`, which an
                UPDATE of a copy must not set.
            on_error: what to do with a field that has no Python value (``infinity``, years before 1
                or after 9999, ``24:00:00``): ``"raise"`` raises ValueConversionError; ``"text"``
                returns PostgreSQL's text of it, or the bytes of a binary field; a function is
                called with the ValueConversionError, and what it returns stands for the value.

        Raises:
            ValueConversionError: if a field has no Python value, with ``on_error="raise"``.
            ValueError: if ``on_error`` is none of these.
        """
        if on_error != "raise" and on_error != "text" and not callable(on_error):
            raise ValueError(f"on_error must be 'raise', 'text' or a function, not {on_error!r}")
        return self.shape.load(self.fields, omit_unchanged, on_error)

    def as_json(self) -> bytes:
        """Return the row as a JSON object, with the values that ``to_jsonb`` makes of them.

        Integers and numeric keep every digit; columns that are :data:`UNCHANGED` are left out.

        Raises:
            ValueConversionError: if a field was sent in binary.
        """
        # Decoding alone needs no orjson.
        from .payloads import row_as_json

        return row_as_json(self)

    def structure(self, kind: type[T]) -> T:
        """Return the row as an object of a class: of attrs or pydantic, a dataclass, a TypedDict.

        Each attribute gets the value of the column of its name, if that is of the attribute's type:
        an int is taken for a float and a Decimal, too. Columns without an attribute are left out.
        An :class:`enum.Enum` is found by PostgreSQL's label, as its value or its name; a class is
        made of a composite, whose fields are in the order of its attributes, or of a JSON object.
        Classes of pydantic go by their own rules.
        An attribute for NULL has ``| None``, and one for :data:`UNCHANGED` ``| Unchanged``; of
        several other types the first that takes the value is chosen.

        Args:
            kind: the class.

        Raises:
            RowStructureError: if the row does not fit the class, with table and column.
            ValueConversionError: if the value of an attribute's column has no Python value.
            TypeError: if it is none of these classes, or no value becomes an attribute's type.
        """
        # Decoding alone needs no cattrs.
        from ._structure import structure

        return structure(self, kind)

    def _text(self, place: int, value: Field) -> str | Unchanged | None:
        if isinstance(value, bytes):
            column = self.shape.columns[place]
            raise ValueConversionError(
                column.name,
                column.type_name,
                None,
                "a binary field has no text; start the stream without binary",
                table=self.shape.table,
            )
        return value
