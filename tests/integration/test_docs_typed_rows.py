"""docs/howto/typed-rows.md: its program prints what the page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_postgres import Database, unique_name
from tests.integration.test_docs import blocks, lines_of

pytestmark = pytest.mark.integration

PAGE = "docs/howto/typed-rows.md"


def test_rows_become_objects(database: Database, tmp_path: Path) -> None:
    (source,) = blocks(PAGE, "python")
    prepare, changes = blocks(PAGE, "sql")
    (expected,) = blocks(PAGE, "text")
    program = tmp_path / "orders.py"
    program.write_text(source.replace('slot="orders"', f'slot="{unique_name("slot")}"'))
    database.execute(prepare)
    command = [sys.executable, str(program), database.dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed = lines_of(process)
            shown = [next(printed)]
            for statement in changes.strip().splitlines():
                database.execute(statement)
            shown += [next(printed) for _ in range(3)]
        finally:
            process.kill()
    assert shown == expected.splitlines()
