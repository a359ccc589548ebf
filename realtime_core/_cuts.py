"""Functions for all fields of a row at once, made for each width or each shape.

A matched row has a group for each field, its text behind one byte; see
:mod:`realtime_core.pgoutput._patterns`. With the loop over the groups unrolled a field takes
half as long (43 ns instead of 84). ``S`` is a slice that need not be built for each field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final

__all__ = ["from_latin1", "make_cut", "make_load"]

_SLICE: Final = slice(1, None)


@cache
def make_cut(columns: int) -> Callable[..., tuple[str | None, ...]]:
    """Return the function that takes so many groups and returns their texts, None for NULL."""
    groups = [f"g{place}" for place in range(columns)]
    texts = "".join(f"{group} and {group}[S], " for group in groups)
    cut: Callable[..., tuple[str | None, ...]] = _compiled(groups, f"({texts})", {})
    return cut


def make_load(
    names: Sequence[str], functions: Sequence[Callable[[str], Any]], *, groups_given: bool
) -> Callable[..., dict[str, Any]]:
    """Return the function that returns a dict of Python values.

    Args:
        names: of the columns.
        functions: takes a field's text, for each column.
        groups_given: whether it takes a matched row's groups, or else texts; None for NULL.
    """
    groups = [f"g{place}" for place in range(len(names))]
    cut = "[S]" if groups_given else ""
    pairs = [
        f"{name!r}: None if {group} is None else "
        + (f"{group}{cut}" if function is str else f"f{group}({group}{cut})")
        for name, group, function in zip(names, groups, functions, strict=True)
    ]
    named = {f"f{group}": function for group, function in zip(groups, functions, strict=True)}
    load: Callable[..., dict[str, Any]] = _compiled(groups, f"{{{', '.join(pairs)}}}", named)
    return load


def from_latin1(groups: Iterable[str | None]) -> tuple[str | None, ...]:
    """Return what is UTF-8 but was read as Latin-1 as the texts that it is."""
    return tuple(
        [
            group if group is None or group.isascii() else group.encode("latin-1").decode()
            for group in groups
        ]
    )


def _compiled(groups: Sequence[str], result: str, names: dict[str, Any]) -> Any:
    source = f"lambda {', '.join([*groups, '*'])}, S=S: {result}"
    return eval(compile(source, "<cutter of rows>", "eval"), {"S": _SLICE, **names})
