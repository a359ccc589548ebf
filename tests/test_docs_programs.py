"""What every program in the documentation has in common."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r'^```python(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

Program = tuple[str, str, str]


def programs() -> Iterator[Program]:
    """Yield page, title and text of what can be started: it reads arguments or runs a loop."""
    for page in PAGES:
        for title, source in BLOCK.findall(page.read_text(encoding="utf-8")):
            starts = re.search(r"^ {0,4}asyncio\.run\(|sys\.argv", source, re.MULTILINE)
            if starts and not title.startswith("test_"):
                yield str(page.relative_to(ROOT)), title, source


PROGRAMS = list(programs())


@pytest.mark.parametrize(("page", "title", "source"), PROGRAMS)
def test_ctrl_c_is_expected(page: str, title: str, source: str) -> None:
    """tests/integration/test_docs_interrupts.py presses it."""
    started = [
        node
        for node in ast.parse(source).body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert any("KeyboardInterrupt" in ast.unparse(node) for node in started)


def test_the_programs_are_found() -> None:
    assert {page for page, _, _ in PROGRAMS} >= {"README.md", "docs/tutorial/embedding.md"}
