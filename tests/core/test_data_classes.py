"""The library's data classes behave as those of attrs do."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import attrs
import pytest

from realtime_core import (
    LSN,
    Column,
    Commit,
    Gap,
    GapReason,
    Insert,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
    Shape,
    StreamIdentity,
    Transaction,
)
from realtime_core._data_classes import define, frozen

TRANSACTION = Transaction(7, LSN(16), None, stream=StreamIdentity(1, 1, ("b", "a", "b")))
TABLE = Relation(1, "s", "t", ReplicaIdentity.FULL, (Column("id", 23, "int4", "", -1, True),))
CHANGE = Insert(TRANSACTION, 0, TABLE, Record(TABLE.shape, ("1",)))
FROZEN = [TRANSACTION, Commit(TRANSACTION, LSN(32), 1), Gap(None, Position(LSN(1)), GapReason.LAG)]


@define
class Ours:
    one: int
    two: str = "x"


@attrs.define
class Theirs:
    one: int
    two: str = "x"


@frozen
class OursFrozen:
    one: int


@attrs.frozen
class TheirsFrozen:
    one: int


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_what_can_be_set_is_compared_and_has_no_hash(kind: Any) -> None:
    made = kind(1)
    assert made == kind(one=1, two="x") != kind(1, "y")
    assert made != (1, "x")
    assert repr(made) == f"{kind.__name__}(one=1, two='x')"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)
    made.two = "z"
    assert made == kind(1, "z")
    with pytest.raises(AttributeError):
        made.three = 3
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'one'"):
        kind()
    match made:
        case Ours(one, two) | Theirs(one, two):
            assert (one, two) == (1, "z")


@pytest.mark.parametrize("kind", [OursFrozen, TheirsFrozen])
def test_what_cannot_be_set_has_a_hash(kind: Any) -> None:
    made = kind(1)
    assert {made: 1}[kind(1)] == 1
    assert weakref.ref(made)() is made
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.one = 2
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del made.one


@pytest.mark.parametrize("made", [CHANGE, *FROZEN], ids=lambda made: type(made).__name__)
def test_events_can_be_copied_and_pickled(made: Any) -> None:
    assert copy.copy(made) == made
    if made is not CHANGE:
        # A relation is equal to itself alone.
        assert pickle.loads(pickle.dumps(made)) == made
        assert hash(copy.deepcopy(made)) == hash(made)


def test_attrs_knows_them() -> None:
    assert attrs.has(Insert)
    assert attrs.evolve(CHANGE, index=3) == Insert(TRANSACTION, 3, TABLE, CHANGE.record)
    assert [field.name for field in attrs.fields(Commit)] == ["transaction", "end_lsn", "changes"]
    named = attrs.evolve(TABLE, table="u")
    assert (str(named), named.columns, named == TABLE) == ("s.u", TABLE.columns, False)
    assert named.shape.table == "s.u"


def test_a_relation_is_equal_to_itself_alone_and_a_stream_whatever_its_timeline() -> None:
    again = Relation(1, "s", "t", ReplicaIdentity.FULL, TABLE.columns)
    assert (again == TABLE, TABLE == TABLE, len({again, TABLE})) == (False, True, 2)
    assert repr(Relation(1, "s", "t", ReplicaIdentity.FULL, ())).endswith("columns=())")
    assert isinstance(TABLE.shape, Shape)
    stream = StreamIdentity(1, 2, ["a", "b"])  # type: ignore[arg-type]
    assert stream == TRANSACTION.stream
    assert hash(stream) == hash(TRANSACTION.stream)
    assert stream.publications == ("a", "b")
