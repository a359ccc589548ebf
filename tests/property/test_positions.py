"""What holds for any LSN and any Position."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_core import LSN, Position, StreamIdentity

lsns = st.integers(0, 2**64 - 1).map(LSN)
identifiers = st.text(
    st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=63
)
streams = st.builds(
    StreamIdentity,
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**32 - 1),
    st.lists(identifiers, max_size=4),
)
positions = st.builds(Position, lsns, st.integers(0, 2**32 - 1), st.none() | streams)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(lsns)
def test_an_lsn_is_parsed_from_its_text(lsn: LSN) -> None:
    assert LSN.parse(str(lsn)) == lsn


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(positions)
def test_a_position_is_parsed_from_its_text(position: Position) -> None:
    text = str(position)
    assert Position.parse(text) == position
    assert str(Position.parse(text)) == text
    assert text.split() == [text]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | positions.map(lambda position: str(position)[:-1]))
def test_any_text_is_a_position_or_a_value_error(text: str) -> None:
    try:
        position = Position.parse(text)
    except ValueError:
        return
    assert Position.parse(str(position)) == position


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(lsns, st.integers(0, 9)), max_size=8))
def test_positions_sort_as_their_parts_do(parts: list[tuple[LSN, int]]) -> None:
    stream = StreamIdentity(1, 1, ("shop",))
    ordered = sorted(Position(lsn, index, stream) for lsn, index in parts)
    assert [(position.lsn, position.index) for position in ordered] == sorted(parts)
