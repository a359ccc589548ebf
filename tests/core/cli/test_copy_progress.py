"""What a copy says of how far it is."""

from types import SimpleNamespace
from typing import Any

from realtime_core import Position
from realtime_core._copy import Copy


def test_rows_of_a_first_copy_are_not_taken_for_stored() -> None:
    target: Any = SimpleNamespace(
        name="copy",
        position=None,
        rows=1_500,
        changes=0,
        checkpoint=lambda: None,
        lacks=list,
        rollback=lambda: None,
    )
    copy = Copy(target, [], overwrite=False)
    assert str(copy) == "1,500 rows, 0 changes, to be stored when the first copy is complete"
    target.position = Position.parse("0/16B3748:0")
    assert str(copy) == "1,500 rows, 0 changes, up to 0/16B3748"
