from itertools import pairwise

import pytest

from realtime_core import LSN, Position, PositionMismatchError, StreamIdentity

STREAM = StreamIdentity(7_300_000_000_000_000_001, 1, ("shop",))
HERE = LSN.parse("16/B374D848")


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position(HERE), "16/B374D848:0"),
        (Position(HERE, 7), "16/B374D848:7"),
        (Position(HERE, 7, STREAM), "16/B374D848:7@7300000000000000001.1/shop"),
        (Position(HERE, 0, StreamIdentity(1, 3, ())), "16/B374D848:0@1.3/"),
        (Position(HERE, 0, StreamIdentity(1, 3, ("b", "a"))), "16/B374D848:0@1.3/a,b"),
        (
            Position(HERE, 0, StreamIdentity(1, 3, ("a,b", "c/d e", "ü", "%2C", 'q"@:'))),
            "16/B374D848:0@1.3/%252C,a%2Cb,c%2Fd%20e,q%22%40%3A,%C3%BC",
        ),
    ],
)
def test_a_position_is_parsed_from_its_text(position: Position, text: str) -> None:
    assert str(position) == text
    parsed = Position.parse(text)
    assert parsed == position
    # Equality leaves the timeline out.
    assert str(parsed) == text


@pytest.mark.parametrize("stream", [None, StreamIdentity(7, 2, ("a b", "c"))])
def test_positions_of_a_transaction_differ_by_their_index_alone(
    stream: StreamIdentity | None,
) -> None:
    before, behind = Position.around_index(LSN(5), stream)
    for index in (0, 7, 4_294_967_295):
        assert f"{before}{index}{behind}" == str(Position(LSN(5), index, stream))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16/B374D848",
        "16/B374D848:",
        ":0",
        "16/B374D848:-1",
        "16/B374D848:0@",
        "16/B374D848:0@1",
        "16/B374D848:0@1/shop",
        "16/B374D848:0@1.1/a b",
        "16/B374D848:0 ",
        "16/B374D848:0\n",
        "16/B374D848:٣",
    ],
)
def test_parse_refuses_what_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


def test_positions_are_ordered_by_lsn_then_index() -> None:
    positions = [
        Position(LSN(100), 0, STREAM),
        Position(LSN(100), 1, STREAM),
        Position(LSN(100), 10, STREAM),
        Position(LSN(2**32), 0, STREAM),
    ]
    shuffled = [positions[place] for place in (2, 0, 3, 1)]
    assert sorted(shuffled) == positions
    for earlier, later in pairwise(positions):
        assert earlier < later
        assert earlier <= later
        assert later > earlier
        assert later >= earlier
        assert earlier != later


def test_equal_positions_are_one_in_a_set() -> None:
    assert {Position(HERE, 1, STREAM), Position(HERE, 1, STREAM)} == {Position(HERE, 1, STREAM)}
    assert Position(HERE, 1, STREAM) <= Position(HERE, 1, STREAM)


@pytest.mark.parametrize(
    "other",
    [
        None,
        StreamIdentity(2, 1, ("shop",)),
        StreamIdentity(STREAM.system_identifier, 1, ("shop", "audit")),
    ],
)
def test_positions_of_different_streams_have_no_order(other: StreamIdentity | None) -> None:
    mine, yours = Position(LSN(1), 0, STREAM), Position(LSN(2), 0, other)
    assert mine != yours
    with pytest.raises(PositionMismatchError, match="cannot order 0/1:0@"):
        _ = mine < yours
    with pytest.raises(PositionMismatchError):
        _ = mine >= yours


def test_positions_of_two_timelines_of_one_cluster_compare() -> None:
    after_promotion = StreamIdentity(STREAM.system_identifier, 2, ("shop",))
    assert Position(LSN(1), 0, STREAM) < Position(LSN(2), 0, after_promotion)


def test_the_order_of_publications_makes_no_difference() -> None:
    assert StreamIdentity(1, 1, ("b", "a", "b")) == StreamIdentity(1, 1, ("a", "b"))


def test_a_position_is_not_compared_with_anything_else() -> None:
    assert Position(HERE) != HERE
    with pytest.raises(TypeError):
        _ = Position(HERE) < HERE


def test_the_end_of_a_transaction_is_behind_all_of_its_changes_and_can_be_written_down() -> None:
    stream = StreamIdentity(7, 1, ("shop",))
    position = Position(LSN(5), 3, stream)
    end = position.end_of_transaction()
    assert (end.lsn, end.stream) == (position.lsn, stream)
    assert position < Position(LSN(5), 1_000_000_000, stream) < end < Position(LSN(6), 0, stream)
    assert Position.parse(str(end)) == end == end.end_of_transaction()
