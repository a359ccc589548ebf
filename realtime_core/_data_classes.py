"""Data classes with slots, made as attrs makes them, in a tenth of the time.

What only decodes has some forty of them. To import attrs takes 37 ms, and to make these classes
another 25 ms, several times as much as all else that a script imports which decodes a capture.
attrs is imported when somebody asks it about one of these classes, as ``attrs.evolve`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

__all__ = ["define", "frozen", "frozen_by_hand"]

C = TypeVar("C", bound=type)

if TYPE_CHECKING:
    # They know these, and so that attrs.evolve takes the classes.
    from attrs import define, frozen
else:

    def define(cls: C) -> C:
        """Make a class with slots for its annotated attributes, the arguments of its ``__init__``.

        A method that the class has itself is left alone.
        """
        return _made(cls, is_frozen=False)

    def frozen(cls: C) -> C:
        """Make a class as :func:`define` does, whose attributes cannot be set."""
        return _made(cls, is_frozen=True)


@dataclass_transform(frozen_default=True)
def frozen_by_hand(cls: C) -> C:
    """Make a class as :func:`frozen` does, which has an ``__init__`` itself.

    Objects are compared and shown by its arguments.
    """
    made: C = _made(cls, is_frozen=True)
    return made


def _made(cls: Any, *, is_frozen: bool) -> Any:
    members = dict(cls.__dict__)
    own = tuple(cls.__annotations__)
    defaults = tuple(members.pop(name) for name in own if name in members)
    for name in ("__dict__", "__weakref__"):
        members.pop(name, None)
    slots = own if cls.__base__.__weakrefoffset__ else (*own, "__weakref__")
    if "__init__" in members:
        code = members["__init__"].__code__
        names = code.co_varnames[1 : code.co_argcount]
    else:
        names = getattr(cls.__base__, "__match_args__", ()) + own
    values = _values_of(names)
    made: dict[str, Any] = {
        "__repr__": _repr(names),
        "__reduce__": lambda self: (self.__class__, values(self)),
    }
    if "__eq__" not in members:
        made["__eq__"] = _eq(values)
        # Objects that can be changed have no hash.
        made["__hash__"] = (lambda self: hash(values(self))) if is_frozen else None
    if is_frozen:
        made |= {"__setattr__": _refuse, "__delattr__": _refuse}
    made |= {"__slots__": slots, "__match_args__": names, "__attrs_attrs__": _AttrsFields()}
    new = type(cls)(cls.__name__, cls.__bases__, made | members)
    if "__init__" not in members:
        new.__init__ = _init(new, names, defaults, is_frozen=is_frozen)
    return new


def _init(
    cls: Any, names: tuple[str, ...], defaults: tuple[Any, ...], *, is_frozen: bool
) -> Callable[..., None]:
    """Return an ``__init__``, written out: it runs for every row."""
    # The descriptors of the slots set what __setattr__ refuses to.
    setters = {f"_{name}": getattr(cls, name).__set__ for name in names} if is_frozen else {}
    lines = [f"_{name}(self, {name})" if is_frozen else f"self.{name} = {name}" for name in names]
    exec(f"def __init__(self, {', '.join(names)}): {'; '.join(lines) or 'pass'}", setters)
    init: Any = setters["__init__"]
    init.__defaults__ = defaults
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    return init  # type: ignore[no-any-return]


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) < 2:
        return lambda self: tuple([getattr(self, name) for name in names])
    return attrgetter(*names)


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, Any], Any]:
    def eq(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return eq


def _repr(names: tuple[str, ...]) -> Callable[[Any], str]:
    def show(self: Any) -> str:
        pairs = ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
        return f"{self.__class__.__qualname__}({pairs})"

    return show


def _refuse(self: Any, name: str, value: Any = None) -> None:
    from attrs.exceptions import FrozenInstanceError

    raise FrozenInstanceError


class _AttrsFields:
    """Describes a class to attrs, from the first time that it asks."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        import attrs

        like = attrs.make_class(owner.__name__, list(owner.__match_args__))
        owner.__attrs_attrs__ = attrs.fields(like)
        return owner.__attrs_attrs__
