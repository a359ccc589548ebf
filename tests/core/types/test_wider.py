"""Which types of PostgreSQL hold every value of a column."""

from __future__ import annotations

import pytest

from realtime_core import Column
from realtime_core.types.wider import holds_values


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (("int4", -1), ("int4", -1), True),
        (("int4", -1), ("int8", -1), True),
        (("int8", -1), ("int4", -1), False),
        (("int4", -1), ("text", -1), True),
        (("varchar", 14), ("varchar", 24), True),
        (("varchar", 24), ("varchar", 14), False),
        (("varchar", 24), ("varchar", -1), True),
        (("varchar", -1), ("varchar", 24), False),
        (("numeric", (10 << 16 | 2) + 4), ("numeric", (12 << 16 | 2) + 4), True),
        (("numeric", (10 << 16 | 2) + 4), ("numeric", (12 << 16 | 4) + 4), True),
        (("numeric", (10 << 16 | 2) + 4), ("numeric", (10 << 16 | 4) + 4), False),
        (("numeric", (10 << 16 | 2) + 4), ("numeric", (12 << 16 | 1) + 4), False),
        (("numeric", -1), ("numeric", (12 << 16 | 1) + 4), False),
        (("timestamptz", -1), ("timestamp", -1), False),
        # jsonb refuses \u0000, and keeps the last of several members of one name only.
        (("json", -1), ("jsonb", -1), False),
        (("json", -1), ("text", -1), True),
    ],
)
def test_a_type_fits_if_it_holds_every_value(
    source: tuple[str, int], target: tuple[str, int], fits: bool
) -> None:
    type_name, modifier = source
    column = Column("c", 1, type_name, "pg_catalog", modifier, False)
    assert holds_values(column, *target) is fits
