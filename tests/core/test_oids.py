import pytest

from realtime_core.oids import BUILTIN_TYPES
from tests.fix_postgres import Server


def test_the_table_is_in_the_order_of_oids() -> None:
    assert list(BUILTIN_TYPES) == sorted(BUILTIN_TYPES)


@pytest.mark.integration
def test_the_table_names_every_builtin_type_of_the_server(pg: Server) -> None:
    rows = pg.execute(
        "SELECT oid::bigint, typname FROM pg_type"
        " WHERE typnamespace = 'pg_catalog'::regnamespace AND oid < 10000"
    )
    assert {oid: name for oid, name in rows if BUILTIN_TYPES.get(oid) != name} == {}
