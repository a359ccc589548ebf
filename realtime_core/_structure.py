"""Makes objects of an application's own classes of rows, with cattrs.

cattrs generates a function for each class, which takes the Python values of a row. The hooks below
let a value through only if it is of the attribute's type, and convert what PostgreSQL has no Python
type for: enums, and composites, which come as texts (:mod:`._structure_texts`). pydantic's classes
are made by their own validators.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import repeat
from types import UnionType
from typing import (
    Any,
    Final,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from uuid import UUID

from cattrs import BaseValidationError, Converter, IterableValidationError
from cattrs.errors import (
    AttributeValidationNote,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from ._structure_compiled import arguments_of, maker
from ._structure_texts import (
    COLLECTIONS,
    SCALARS,
    as_array,
    as_composite,
    as_range,
    as_scalar,
    fields_of,
    has_text_form,
    is_class,
    is_collection,
    is_pydantic,
    is_range,
    is_tuple_of_several,
    split_composite,
    unpacked,
)
from .errors import RowStructureError, ValueConversionError
from .records import UNCHANGED, Record, Unchanged

__all__ = ["check_class", "structure"]

T = TypeVar("T")

_WIDER: Final[dict[type, tuple[type, ...]]] = {
    float: (float, int, Decimal),
    Decimal: (Decimal, int),
}
"""The types of values that an attribute takes besides its own: no value of theirs is changed by
more than a float's precision."""
_UNKNOWN: Final[Any] = object()
"""Stands for a class of which nothing was asked yet."""
_OWN: Final = (bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID)


def check_class(kind: Any) -> None:
    """Check that objects can be made of a class.

    Raises:
        TypeError: if it is none of the kinds that :meth:`Record.structure` takes, or no value
            becomes one of an attribute's type.
    """
    if not is_class(kind):
        raise TypeError(
            f"rows become objects of a class of attrs or pydantic, of a dataclass or a TypedDict, "
            f"and {kind!r} is none"
        )
    if is_pydantic(kind):
        return
    try:
        types = fields_of(kind)
    except (NameError, TypeError) as exc:
        raise TypeError(f"the types of {kind.__name__} cannot be read: {exc}") from None
    for name, _, _ in arguments_of(kind):
        try:
            _converter(False).get_structure_hook(types[name] or Any)
        except (StructureHandlerNotFoundError, TypeError) as exc:
            raise TypeError(
                f"no value becomes the type of {kind.__name__}.{name}, {types[name]}: "
                f"{str(exc).removesuffix(' Register a structure hook for it.')}"
            ) from None


def structure(record: Record, kind: type[T]) -> T:
    """Make an object of a class of a row: see :meth:`Record.structure`."""
    make: Any = record.shape.makers.get(kind, _UNKNOWN)
    if make is _UNKNOWN:
        check_class(kind)
        make = maker(record.shape, kind, _converter(False).get_structure_hook)
        record.shape.makers[kind] = make
    if make is not None and bytes not in map(type, record.fields):
        try:
            return make(*record.fields)  # type: ignore[no-any-return]
        except Exception:
            pass  # below it is said what is wrong, if anything is
    try:
        values = record.as_python()
    except ValueConversionError:
        # It is an error only if the class has an attribute for it.
        values = {name: record[name] for name in fields_of(kind) if name in record}
    if is_typeddict(kind):
        # It would keep the others.
        values = {name: values[name] for name in fields_of(kind) if name in values}
    try:
        return _converter(False).structure(values, kind)
    except (BaseValidationError, ValueError, TypeError) as exc:
        raise _error(record, kind, values, exc) from exc


def _error(
    record: Record, kind: type, values: dict[str, Any], exc: BaseException
) -> RowStructureError:
    # The first problem, at the bottom of the groups that cattrs makes of problems.
    path = list(_places(exc))
    while isinstance(exc, BaseValidationError):
        exc = exc.exceptions[0]
    reason = str(exc)
    if hasattr(exc, "errors"):
        # pydantic's, which says more than is to be said of a row.
        first = exc.errors(include_url=False, include_context=False)[0]
        path += map(str, first["loc"])
        reason = first["msg"]
    table = record.shape.table
    if not path:
        return RowStructureError(table, None, None, f"{kind.__name__} refuses the row: {reason}")
    column, *inner = path
    if column not in values:
        return RowStructureError(
            table, column, None, f"the row has no such column, which {kind.__name__} needs"
        )
    place = f", at {'.'.join(inner)} of it" if inner else ""
    return RowStructureError(table, column, type(values[column]), f"{reason}{place}")


def _places(exc: BaseException) -> Iterator[str]:
    """Yield the attributes and indexes that lead to the first problem."""
    while isinstance(exc, BaseValidationError):
        exc = exc.exceptions[0]
        for note in getattr(exc, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                yield note.name
            elif isinstance(note, IterableValidationNote):
                yield str(note.index)


@cache
def _converter(of_texts: bool) -> Converter:
    """Return the converter of Python values, or that of texts, as composites and arrays have them.

    Each asks the other one where a text has to be read, or a JSON value is met.
    """
    converter = Converter()
    if of_texts:
        # A hook for dict would be that of TypedDicts, too.
        for kind in SCALARS.keys() - {dict}:
            converter.register_structure_hook(kind, _structure_text)
        converter.register_structure_hook_func(has_text_form, as_scalar)
        converter.register_structure_hook(str, _structure_exactly)
    else:
        for kind in _OWN:
            converter.register_structure_hook(kind, _structure_exactly)
        # Types of which nothing is known, such as ipaddress's networks.
        converter.register_structure_hook_func(_is_other, _structure_instance)
    converter.register_structure_hook_func(is_range, _structure_range)
    converter.register_structure_hook_func(
        _is_enum, _structure_text if of_texts else _structure_enum
    )
    converter.register_structure_hook_factory(_is_union, _union_hook)
    converter.register_structure_hook_factory(is_collection, _collection_hook)
    converter.register_structure_hook_factory(is_tuple_of_several, _tuple_hook)
    converter.register_structure_hook_factory(is_class, _class_hook)
    converter.register_structure_hook_factory(is_pydantic, _pydantic_hook)
    return converter


def _structure_exactly(value: Any, kind: type) -> Any:
    # A bool is no int here, and a datetime no date.
    if type(value) is kind:
        return value
    if type(value) in _WIDER.get(kind, ()):
        return kind(value)
    if issubclass(kind, enum.Enum):
        # An enum of strings or numbers, which counts as one of those.
        return _structure_enum(value, kind)
    raise TypeError(f"{_said(value)} is no {kind.__name__}")


def _structure_text(text: Any, kind: Any) -> Any:
    if not _is_enum(kind):
        return as_scalar(text, kind)
    # The text may be that of a number.
    members = {str(member.value): member for member in kind}
    return members[text] if text in members else _structure_enum(text, kind)


def _structure_instance(value: Any, kind: Any) -> Any:
    origin = get_origin(kind) or kind
    if isinstance(value, origin):
        return value
    raise TypeError(f"{_said(value)} is no {getattr(origin, '__name__', origin)}")


def _structure_range(value: Any, kind: Any) -> Any:
    if isinstance(value, str):
        return as_range(value, kind, _converter(True).structure)
    return _structure_instance(value, kind)


def _structure_enum(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    """Find the member whose value is PostgreSQL's label, or else the one of that name."""
    try:
        return kind(value)
    except ValueError:
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise ValueError(
            f"{_said(value)} is neither a value nor a name of {kind.__name__}"
        ) from None


def _collection_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    made = COLLECTIONS[get_origin(kind) or kind]
    element: Any = (get_args(kind) or (Any,))[0]
    element_of_text = _converter(True).structure
    # It raises an error now for what cannot be an element.
    converter.get_structure_hook(element)

    def hook(value: Any, _: Any) -> Any:
        structure = converter.structure
        if isinstance(value, str):
            value, structure = as_array(value), element_of_text
        elif not isinstance(value, list):
            raise TypeError(f"{_said(value)} is no {made.__name__}")
        return made(_items(value, repeat(element), structure, kind))

    return hook


def _tuple_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    if get_origin(kind) is tuple:
        made, elements = tuple, list(get_args(kind))
    else:
        made, types = kind._make, get_type_hints(kind)
        elements = [types.get(name, Any) for name in kind._fields]
    for element in elements:
        converter.get_structure_hook(element)

    def hook(value: Any, _: Any) -> Any:
        structure = converter.structure
        if isinstance(value, str):
            value, structure = split_composite(value), _converter(True).structure
        if not isinstance(value, list) or len(value) != len(elements):
            raise TypeError(f"{_said(value)} is no {kind.__name__} of {len(elements)}")
        return made(_items(value, elements, structure, kind))

    return hook


def _items(
    values: list[Any], kinds: Iterable[Any], structure: Callable[[Any, Any], Any], whole: Any
) -> list[Any]:
    """Return the values as objects of their types; an error says at which place it arose."""
    items = []
    for index, (item, kind) in enumerate(zip(values, kinds, strict=False)):
        try:
            items.append(structure(item, kind))
        except (BaseValidationError, ValueError, TypeError) as exc:
            exc.add_note(IterableValidationNote(f"at {index}", index, kind))
            raise IterableValidationError("in a list", [exc], whole) from exc
    return items


def _union_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Take a value for the first of several types that takes it."""
    kinds = [each for each in get_args(kind) if each not in (type(None), Unchanged)]
    hooks = [(converter.get_structure_hook(each), each) for each in kinds]
    takes_null = type(None) in get_args(kind)
    takes_unchanged = Unchanged in get_args(kind)

    def hook(value: Any, _: Any) -> Any:
        if (value is None and takes_null) or (value is UNCHANGED and takes_unchanged):
            return value
        for structure, each in hooks:
            try:
                return structure(value, each)
            except (BaseValidationError, ValueError, TypeError):
                if len(hooks) == 1:
                    raise
        names = " or ".join([getattr(each, "__name__", str(each)) for each in kinds])
        raise TypeError(f"{_said(value)} is no {names}")

    return hook


def _class_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    structure_values: Callable[[Any, Any], Any]
    if is_typeddict(kind):
        structure_values = converter.gen_structure_typeddict(kind)
    else:
        structure_values = converter.gen_structure_attrs_fromdict(kind)

    def hook(value: Any, kind: Any) -> Any:
        if isinstance(value, str):
            fields, are_texts = as_composite(value, kind)
            return _converter(are_texts).structure(fields, kind)
        if not isinstance(value, dict):
            raise TypeError(f"{_said(value)} is no {kind.__name__}")
        return structure_values(value, kind)

    return hook


def _pydantic_hook(kind: Any, _: Converter) -> Callable[[Any, Any], Any]:
    validate = kind.__pydantic_validator__.validate_python

    def hook(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict | str):
            raise TypeError(f"{_said(value)} is no {kind.__name__}")
        return validate(unpacked(value, kind))

    return hook


def _said(value: Any) -> str:
    if value is None:
        return "NULL"
    if value is UNCHANGED:
        return "UNCHANGED, which the message does not carry,"
    return f"{value!r} of type {type(value).__name__}"


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_other(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.partition(".")[0] in ("psycopg", "ipaddress")
