"""Makes dicts of Python values of whole rows, which is what :meth:`Record.as_python` returns.

A row whose fields are all texts or NULL, with the common form of their types, is one generated
expression. Any other row is converted field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from ._implementation import IMPLEMENTATION
from .errors import ValueConversionError
from .records import UNCHANGED, Field, OnError, Shape, Unchanged

__all__ = ["OnErrorOrWord", "RowLoader", "row_loader"]

OnErrorOrWord: TypeAlias = Literal["raise", "text"] | OnError
# Whole columns may be infinite, and to make an error of each value takes as long as the whole row.
_INFINITE: Final = frozenset(("infinity", "-infinity"))
_DATES: Final = frozenset(("date", "timestamp", "timestamptz"))
RowLoader: TypeAlias = Callable[[tuple[Field, ...], bool, OnErrorOrWord], dict[str, Any]]
"""Takes the fields of a row, and what :meth:`Record.as_python` takes."""


def row_loader(shape: Shape) -> RowLoader:
    """Return the function that loads the rows of a shape."""
    from .types.python_values import builtin_type

    functions = [shape.text_function(place) for place in range(len(shape.columns))]
    types = [
        builtin_type(column.type_oid, column.type_name, column.type_schema)
        for column in shape.columns
    ]
    # A stream that is wrong may describe two columns of one name, which take the slower way.
    if IMPLEMENTATION == "c" and len(shape.index) == len(shape.names):
        from realtime_core_c import loaders

        return loaders.RowLoader(shape.names, types, functions, shape.convert)
    load_texts = _texts_loader(shape.names, functions)
    dates = frozenset(place for place, name in enumerate(types) if name in _DATES)
    load_infinite = _texts_loader(shape.names, functions, dates) if dates else load_texts

    def load(
        fields: tuple[Field, ...], omit_unchanged: bool, on_error: OnErrorOrWord
    ) -> dict[str, Any]:
        try:
            # A text column's function would take bytes for what they are not.
            if bytes not in map(type, fields) and not (
                omit_unchanged and Unchanged in map(type, fields)
            ):
                return (load_infinite if on_error == "text" else load_texts)(*fields)
        except Exception:
            pass  # for one of them: below it is said what is wrong, if anything is
        values: dict[str, Any] = {}
        for place, (name, field) in enumerate(zip(shape.names, fields, strict=True)):
            if field is None:
                values[name] = None
            elif field is UNCHANGED:
                if not omit_unchanged:
                    values[name] = field
            else:
                values[name] = _value(shape, place, field, functions[place], on_error)
        return values

    return load


def _value(
    shape: Shape,
    place: int,
    field: str | bytes,
    function: Callable[[str], Any],
    on_error: OnErrorOrWord,
) -> Any:
    """Convert one field, or return what stands for a value that Python has not."""
    if type(field) is str:
        try:
            return function(field)
        except Exception:
            pass  # the converter for values of any kind raises the error that says why
    try:
        return shape.convert(place, field)
    except ValueConversionError as error:
        if on_error == "raise":
            raise
        return field if on_error == "text" else on_error(error)


def _texts_loader(
    names: tuple[str, ...],
    functions: Sequence[Callable[[str], Any]],
    dates: frozenset[int] = frozenset(),
) -> Callable[..., dict[str, Any]]:
    """Return a function that takes the texts of all columns, and returns a dict of Python values.

    It is one generated expression, which is faster than a loop over the columns.

    Args:
        names: the names of the columns.
        functions: for each column, the function that converts its texts.
        dates: the places of columns whose infinite values are returned as texts.
    """
    texts = [f"t{place}" for place in range(len(names))]
    pairs = [
        f"{name!r}: None if {text} is None else "
        + (f"{text} if {text} in infinite else " if place in dates else "")
        + (text if function is str else f"f{text}({text})")
        for place, (name, text, function) in enumerate(zip(names, texts, functions, strict=True))
    ]
    source = f"lambda {', '.join(texts)}: {{{', '.join(pairs)}}}"
    named: dict[str, Any] = {"infinite": _INFINITE}
    named |= {f"f{text}": function for text, function in zip(texts, functions, strict=True)}
    load: Callable[..., dict[str, Any]] = eval(compile(source, "<loader of rows>", "eval"), named)
    return load
