"""docs/howto/typed-rows.md: its program prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_postgres import Database
from tests.integration.test_docs import assert_prints_what_it_says

pytestmark = pytest.mark.integration

PAGE = "docs/howto/typed-rows.md"


def test_rows_become_objects(database: Database, tmp_path: Path) -> None:
    assert_prints_what_it_says(PAGE, "orders", database, tmp_path / "orders.py")
