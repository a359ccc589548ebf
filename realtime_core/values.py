"""Fields to Python values, through psycopg's loaders.

psycopg knows the built-in types already, so this module only finds the loader and
gives its refusals one face, :exc:`~realtime_core.errors.ValueConversionError`. The
driver is imported at the first typed access: decoding alone does without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import ValueConversionError
from .oids import BUILTIN_TYPES

if TYPE_CHECKING:
    from psycopg.abc import Transformer

__all__ = ["Converter", "make_converter"]

Converter: TypeAlias = Callable[[str | bytes], Any]
"""Takes one field, text or binary, and returns its Python value."""

_OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}


@cache
def _transformer() -> Transformer:
    from psycopg.adapt import Transformer

    return Transformer()


def make_converter(column: str, type_oid: int, type_name: str, type_schema: str) -> Converter:
    """Return the function that converts one column's fields.

    A domain converts as its base type, whose name the stream gives. Types that psycopg
    does not know, enums among them, stay text.
    """
    from psycopg import Error
    from psycopg.pq import Format

    oid = type_oid
    if oid not in BUILTIN_TYPES and type_schema == "pg_catalog":
        oid = _OIDS.get(type_name, type_oid)
    transformer = _transformer()
    load_text = transformer.get_loader(oid, Format.TEXT).load
    load_binary = (
        transformer.get_loader(oid, Format.BINARY).load
        if transformer.adapters.get_loader(oid, Format.BINARY) is not None
        else None
    )

    def convert(value: str | bytes) -> Any:
        try:
            if isinstance(value, str):
                return load_text(value.encode())
            if load_binary is not None:
                return load_binary(value)
        except (Error, ValueError, ArithmeticError) as exc:
            text = value if isinstance(value, str) else None
            raise ValueConversionError(column, type_name, text, str(exc)) from exc
        raise ValueConversionError(column, type_name, None, "no binary loader for this type")

    return convert
