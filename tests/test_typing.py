"""mypy, in strict mode, on what an application writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

MISUSE = """
from realtime_core import UNCHANGED, Insert, LSN, PgoutputSource, Truncate, Update
from realtime_core import Change, ChangeSource, Wal2JsonSource

def misuse(insert: Insert, update: Update, truncate: Truncate) -> None:
    insert.record.text("id").upper()  # it may be NULL
    update.old_record["id"]  # there may be none
    truncate.relation  # there are several
    insert.record["id"] = 1  # it is read-only
    insert.transaction.xid = 1  # it is frozen
    LSN.parse(1)  # text alone
    insert.record.missing  # columns are keys
    insert.record.as_python(on_error="txt")  # no such way

async def misuse_of_source() -> None:
    PgoutputSource("dsn", ["shop"])  # by keyword alone
    async with PgoutputSource("dsn", publications=["shop"], slot="etl") as source:
        await source.ack("16/B374D848")  # a plain function, of positions
    async with PgoutputSource("dsn", publications=["shop"], on_gap="continue") as source_with_gaps:
        async for event in source_with_gaps:
            event.position  # a gap has none
        async for item in source_with_gaps.transactions(1000):
            item.position  # a gap has none
    async for framed in Wal2JsonSource("dsn", boundaries=True):
        framed.position  # Begin has none
    await read(source_with_gaps)  # it yields more than changes

async def read(source: ChangeSource[Change]) -> None: ...
"""


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mypy with the project's settings and its cache, so that it takes a second."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *arguments],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_mypy_accepts_the_example() -> None:
    result = mypy(str(TESTS / "typing_example.py"))
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


@pytest.mark.slow
def test_mypy_finds_misuse(tmp_path: Path) -> None:
    program = tmp_path / "misuse.py"
    program.write_text(MISUSE)
    result = mypy(str(program))
    found = {int(line) for line in re.findall(r"misuse\.py:(\d+): error:", result.stdout)}
    wanted = {number for number, line in enumerate(MISUSE.splitlines(), 1) if "  # " in line}
    assert found == wanted, result.stdout
