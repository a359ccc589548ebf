"""The compiled implementation takes rows out of the libpq that psycopg has loaded."""

from __future__ import annotations

import hashlib

import pytest

from realtime_core import PgoutputSource, Snapshot, SnapshotComplete
from tests.core.test_accelerator import COMPILED, with_accelerator
from tests.fix_postgres import Database

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (COMPILED / ".done").is_file(),
        reason="the accelerator is not compiled: make accelerator, which takes a C compiler",
    ),
]

# They come in several pieces, and have what COPY escapes.
FILL = r"""
    insert into item
    select n, case n % 5 when 0 then null else E'a\t\\\n\b€🐘' || repeat('x', n % 700) end
    from generate_series(1, 5000) n
"""
READ = """
import asyncio, sys
from tests.integration.test_accelerator import digest
print(asyncio.run(digest(sys.argv[1])))
"""


async def digest(dsn: str) -> str:
    """Return how many rows a snapshot has, and a text that differs if one of them does."""
    rows = []
    async with PgoutputSource(dsn, publications=["shop"], snapshot="initial") as source:
        async for batch in source.batches():
            for event in batch:
                if isinstance(event, Snapshot):
                    rows.append((event.record.as_python(), event.record.fields))
            if isinstance(batch[-1], SnapshotComplete):
                break
    return f"{len(rows)} {hashlib.sha256(repr(rows).encode()).hexdigest()}"


async def test_a_snapshot_has_the_same_rows(table: Database) -> None:
    table.execute(FILL)
    expected = await digest(table.dsn)
    assert expected.startswith("5000 ")
    done = with_accelerator("-c", READ, table.dsn)
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")
