"""Fixtures of RLS mode: a role whose rows clients see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_postgres import Server
from tests.rls_helpers import roles


@pytest.fixture
def reader(pg17: Server) -> Iterator[str]:
    """A role for clients' tokens, on the server that has wal2json."""
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with roles(pg17, "reader") as (reader,):
        yield reader
