"""Tests look at objects from outside, as users do: what they need to see is public.

An attribute with a leading underscore is read through ``self`` and ``super()`` alone, or where
the file itself has made it. A test that has to see the inside of a class makes a subclass that
says what it shows.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXCEPTIONS = {
    "tests/integration/cluster_member.py": "it waits until others are heard, which is told nobody",
    "tests/fuzz/rls/faults.py": "it puts faults into the server, where nothing else may reach",
    "tests/fuzz/session_loop.py": "an event loop runs asyncio's handles, which nobody else may",
}


# What is worth parsing a file for.
PERHAPS = re.compile(r"(?<!\bself)(?<!\bcls)\._[A-Za-z]")


def files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT / "tests"):
        folders[:] = [name for name in folders if name not in (".venv", "node_modules")]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def modules_of(tree: ast.Module) -> set[str]:
    """Return the names that stand for modules."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {
                alias.asname or alias.name
                for alias in node.names
                if is_module(f"{node.module}.{alias.name}")
            }
    return found


def made_here(tree: ast.Module) -> set[str]:
    """Return the names of private attributes that classes of the file have."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(each.name)
                elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    found.add(each.target.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return found


def private_reads(source: str) -> list[str]:
    """Return the places where a file reads another object's private attribute."""
    if not PERHAPS.search(source):
        return []
    tree = ast.parse(source)
    names = modules_of(tree) | {"self", "cls"}
    own = made_here(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in own:
            continue
        of = node.value
        if isinstance(of, ast.Name) and of.id in names:
            continue
        if isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super":
            continue
        found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.slow
def test_no_test_reads_private_attributes_of_another_object() -> None:
    found = {
        name: reads
        for path in files()
        if (reads := private_reads(path.read_text(encoding="utf-8")))
        and (name := str(path.relative_to(ROOT))) not in EXCEPTIONS
    }
    assert found == {}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_still_needed(name: str) -> None:
    assert private_reads((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("source._queue", ["line 1: source._queue"]),
        ("source._plugin.name", ["line 1: source._plugin"]),
        ("self.source._live", ["line 1: self.source._live"]),
        ("made()._x", ["line 1: made()._x"]),
        ("Index._find = None", ["line 1: Index._find"]),
        ("a.__class__; a.public; _name", []),
        ("import asyncio, json as j\nasyncio._x; j._y", []),
        ("from realtime_core.sources import _stream\n_stream._CHUNK", []),
        ("from realtime_core import Record\nRecord._row", ["line 2: Record._row"]),
        ("class A(B):\n  def f(self): return self._x, super()._y, other._x", ["line 2: other._x"]),
        ("class A:\n  def f(self): self._x = 1\na._x", []),
        ("class A:\n  def _f(self): ...\na._f()", []),
    ],
)
def test_what_is_private_to_others_is_found(source: str, reads: list[str]) -> None:
    assert private_reads(source) == reads
