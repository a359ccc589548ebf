"""What `import realtime_core` offers is what its modules say, each name once."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections import Counter
from types import ModuleType

import pytest

import realtime_core

# Their names are the package's too.
REEXPORTED = {
    "realtime_core.changes",
    "realtime_core.doctor",
    "realtime_core.errors",
    "realtime_core.lsn",
    "realtime_core.positions",
    "realtime_core.records",
    "realtime_core.snapshot",
    "realtime_core.sources",
}
# These are imported under their own name.
OWN_NAME = {
    "realtime_core.arrow",
    "realtime_core.filters",
    "realtime_core.oids",
    "realtime_core.opentelemetry",
    "realtime_core.payloads",
    "realtime_core.pgoutput",
    "realtime_core.replication",
    "realtime_core.sql",
    "realtime_core.sqlite_values",
    "realtime_core.targets",
    "realtime_core.types",
    "realtime_core.wal2json",
}


def public_modules(package: ModuleType) -> dict[str, ModuleType]:
    """Return the package's modules, and theirs, but for private ones."""
    found = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not info.name.rpartition(".")[2].startswith("_"):
            module = importlib.import_module(info.name)
            found[info.name] = module
            if info.ispkg:
                found |= public_modules(module)
    return found


def exports(module: ModuleType) -> list[str]:
    """Return `__all__`; a package without a line of code exports nothing."""
    return list(module.__all__) if ast.parse(inspect.getsource(module)).body[1:] else []


MODULES = public_modules(realtime_core)


def test_every_module_is_decided_upon() -> None:
    """A new one is either part of the package's surface or imported under its own name."""
    top = {name for name in MODULES if name.count(".") == 1}
    assert top - REEXPORTED - OWN_NAME == set()
    assert REEXPORTED - top == set()


def test_the_package_exports_what_its_modules_do() -> None:
    union = Counter(name for module in REEXPORTED for name in MODULES[module].__all__)
    assert Counter(realtime_core.__all__) == union


@pytest.mark.parametrize("name", sorted(realtime_core.__all__))
def test_an_exported_name_can_be_imported_and_is_its_modules(name: str) -> None:
    value = getattr(realtime_core, name)
    (home,) = (module for module in REEXPORTED if name in MODULES[module].__all__)
    assert value is getattr(MODULES[home], name)


def test_dir_lists_the_exported_names() -> None:
    assert dir(realtime_core) == sorted(realtime_core.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = realtime_core.Nothing


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_has_every_name_that_it_exports(name: str) -> None:
    module = MODULES[name]
    names = exports(module)
    assert len(set(names)) == len(names)
    assert [each for each in names if not hasattr(module, each)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_exports_every_public_name_that_it_makes(name: str) -> None:
    tree = ast.parse(inspect.getsource(MODULES[name]))
    made = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    public = {each for each in made if not each.startswith("_")}
    assert public - set(exports(MODULES[name])) == set()


@pytest.mark.slow
def test_no_name_means_two_things() -> None:
    """A package's `__all__` repeats its modules'; what is one name must be one thing."""
    homes: dict[str, dict[int, list[str]]] = {}
    for module_name, module in MODULES.items():
        for name in exports(module):
            homes.setdefault(name, {}).setdefault(id(getattr(module, name)), []).append(module_name)
    ambiguous = {name: list(where.values()) for name, where in homes.items() if len(where) > 1}
    assert ambiguous == {}
