"""What every program in the documentation has in common."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
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


def needing() -> Iterator[Program]:
    """Yield what cannot run without arguments or variables of its own."""
    for page in PAGES:
        for title, source in BLOCK.findall(page.read_text(encoding="utf-8")):
            if re.search(r"sys\.argv|os\.environ\[", source):
                yield str(page.relative_to(ROOT)), title, source


NEEDING = list(needing())


@pytest.mark.slow
@pytest.mark.parametrize(("page", "title", "source"), NEEDING)
def test_without_arguments_it_says_which_it_needs(
    page: str, title: str, source: str, tmp_path: Path
) -> None:
    program = tmp_path / title
    program.write_text(source, encoding="utf-8")
    environment = {name: text for name, text in os.environ.items() if name != "JWT_SECRET"}
    found = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert re.fullmatch(rf"usage: .*python {re.escape(title)}.*\n", found.stderr), found.stderr


def test_the_programs_that_need_arguments_are_found() -> None:
    assert len(NEEDING) >= 7


def test_the_programs_are_found() -> None:
    assert {page for page, _, _ in PROGRAMS} >= {"README.md", "docs/tutorial/embedding.md"}
