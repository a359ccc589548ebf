"""Docstrings name the parameters that there are: the documentation's build stops at others."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import realtime_core
import realtime_server

_ARGS = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.MULTILINE)
_NAME = re.compile(r"^    (\S[^:]*):", re.MULTILINE)


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    for package in (realtime_core, realtime_server):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            for name, item in vars(module).items():
                if getattr(item, "__module__", None) != info.name:
                    continue
                if inspect.isfunction(item) or inspect.isclass(item):
                    yield f"{info.name}.{name}", item
                if inspect.isclass(item):
                    for method in filter(inspect.isfunction, vars(item).values()):
                        yield f"{info.name}.{method.__qualname__}", method


def unknown(item: Callable[..., Any]) -> set[str]:
    """Return what is described as a parameter and is none."""
    arguments = _ARGS.search(inspect.getdoc(item) or "")
    if arguments is None:
        return set()
    names = {name.lstrip("*") for name in _NAME.findall(arguments[1])}
    return names - set(inspect.signature(item).parameters)


def test_every_described_parameter_is_one() -> None:
    found = {name: unknown(item) for name, item in callables()}
    assert len(found) > 500
    assert {name: names for name, names in found.items() if names} == {}


def test_a_parameter_that_is_not_there_is_found() -> None:
    def add(a: int, b: int) -> int:
        """Add.

        Args:
            a: one number.
            a, b: both.

        Returns:
            sum: of both.
        """
        return a + b

    assert unknown(add) == {"a, b"}
