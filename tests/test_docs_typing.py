"""The Python in the documentation passes mypy, in strict mode, as a reader would type it in.

A block with a title is a file of that name. Those without one make one program a page, in their
order, since the later ones go on with the former.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Its program is for another environment, with a client of the server's.
PAGES.remove(ROOT / "docs" / "howto" / "connect-clients.md")

BLOCK = re.compile(r'^```python(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

# What a page takes for granted, by its path.
GIVEN = {
    "docs/howto/arrow.md": """
dsn = "dbname=shop"
""",
    "docs/howto/fan-out.md": """
import threading
from realtime_core import Change, PgoutputSource, SyncConsumer
dsn = "dbname=shop"
def greet(consumer: SyncConsumer[Change]) -> None: ...
def count(consumer: SyncConsumer[Change]) -> None: ...
""",
    "docs/howto/slots.md": """
from realtime_core import PgoutputSource
dsn = "dbname=shop"
""",
    "docs/howto/snapshot.md": """
from realtime_core import (
    BackfillStep, Delete, Insert, PgoutputSource, Record, Snapshot, SnapshotBegin,
    SnapshotComplete, Truncate, Update,
)
dsn = "dbname=shop"
def stored_key() -> tuple[str, ...]: return ()
def store_key(key: tuple[str, ...] | None) -> None: ...
def write_over(row: Record) -> None: ...
""",
    "docs/topics/delivery.md": """
from realtime_core import PgoutputSource
dsn = "dbname=shop"
async def copy_what_is_there(dsn: str) -> None: ...
""",
}


def programs(page: Path) -> dict[str, str]:
    """Return a page's programs by the names of their files."""
    name = str(page.relative_to(ROOT))
    found: dict[str, str] = {}
    parts = []
    for title, source in BLOCK.findall(page.read_text(encoding="utf-8")):
        if title:
            found[title] = source
        else:
            parts.append(source if runs_at_the_top(source) else in_a_function(source, len(parts)))
    if parts:
        found[re.sub(r"\W", "_", name.removesuffix(".md")).lower() + ".py"] = "\n".join(
            [GIVEN.get(name, ""), *parts]
        )
    return found


def runs_at_the_top(source: str) -> bool:
    try:
        compile(source, "", "exec")
    except SyntaxError:
        return False
    return True


def in_a_function(source: str, number: int) -> str:
    """Wrap what awaits, which Python allows within a function only."""
    return f"async def part_{number}() -> None:\n" + textwrap.indent(source, "    ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page's programs, in one folder."""
    folder = tmp_path_factory.mktemp("docs")
    for page in PAGES:
        for name, source in programs(page).items():
            path = folder / name
            if path.exists():
                # Two pages may call a program alike; to mypy they would be one module.
                path = folder / f"{page.stem}_{name}"
            path.write_text(source, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_examples_pass_mypy_in_strict_mode(folder: Path) -> None:
    files = sorted(map(str, folder.iterdir()))
    assert len(files) > 12
    # With the project's settings and its cache, so that it takes seconds.
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
