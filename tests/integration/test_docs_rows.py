"""Pages on what rows become: their programs print what the pages say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_postgres import Database
from tests.integration.test_docs import assert_prints_what_it_says

pytestmark = pytest.mark.integration


def test_rows_become_objects(database: Database, tmp_path: Path) -> None:
    assert_prints_what_it_says(
        "docs/howto/typed-rows.md", "orders", database, tmp_path / "orders.py"
    )


def test_changes_become_json(database: Database, tmp_path: Path) -> None:
    assert_prints_what_it_says("docs/howto/json.md", "prices", database, tmp_path / "as_json.py")
