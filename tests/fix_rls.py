"""Fixtures of RLS mode: what it reads, and a role whose rows clients see."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from tests.fix_postgres import Server
from tests.rls_helpers import roles

__all__ = ["Stream", "reader", "stream"]


@attrs.frozen
class Stream:
    """A PostgreSQL server, and the output plugin that makes its changes."""

    server: Server
    plugin: str

    @property
    def settings(self) -> dict[str, str]:
        """The environment's, for a server that reads it."""
        return {"OUTPUT_PLUGIN": self.plugin}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("pg17", "pgoutput"), marks=pytest.mark.pg17, id="17-pgoutput"),
        pytest.param(("pg17", "wal2json"), marks=pytest.mark.pg17, id="17-wal2json"),
        pytest.param(("pg18", "pgoutput"), id="18-pgoutput"),
    ],
)
def stream(request: pytest.FixtureRequest) -> Stream:
    """Each that there is. The embedded PostgreSQL 18 has no wal2json."""
    name, plugin = request.param
    server: Server = request.getfixturevalue(name)
    if plugin == "wal2json" and not server.has_wal2json():
        pytest.skip("wal2json is not installed")
    return Stream(server, plugin)


@pytest.fixture
def reader(pg17: Server) -> Iterator[str]:
    """A role for clients' tokens."""
    with roles(pg17, "reader") as (reader,):
        yield reader
