import pytest

from realtime_core.errors import DecodeError
from realtime_core.lsn import LSN
from realtime_core.replication.timelines import switch_point

HISTORY = """\
1\t0/5000110\tno recovery target specified

# a comment
2\t0/A000000\tbefore 2026-11-24 12:00:00+00
"""


def test_an_ancestor_counts_up_to_where_its_successor_began() -> None:
    assert switch_point(HISTORY, 1) == LSN.parse("0/5000110")
    assert switch_point(HISTORY, 2) == LSN.parse("0/A000000")


def test_who_is_no_ancestor_counts_nowhere() -> None:
    assert switch_point(HISTORY, 3) is None
    assert switch_point("", 1) is None


@pytest.mark.parametrize("text", ["x\t0/1\treason", "1", "1\tzzz\treason"])
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(DecodeError, match="history file"):
        switch_point(text, 1)
