"""Rows as objects of an application's own classes."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import attrs
import pydantic
import pytest
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from realtime_core import (
    UNCHANGED,
    Column,
    ConfigError,
    Insert,
    MemoryDatabase,
    MemorySource,
    Record,
    RowStructureError,
    Shape,
    Unchanged,
    ValueConversionError,
)
from realtime_core.oids import BUILTIN_TYPES

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}


def row(**fields: tuple[str, str | Unchanged | None]) -> Record:
    """Make a row of types and texts."""
    columns = tuple(
        Column(name, OIDS.get(kind, 90000), kind, "pg_catalog", -1, False)
        for name, (kind, _) in fields.items()
    )
    return Record(Shape(columns, "public.users"), tuple(text for _, text in fields.values()))


class Mood(enum.Enum):
    SAD = "sad"
    HAPPY = "happy"


@attrs.frozen
class Address:
    street: str
    number: int
    since: date | None


@attrs.frozen
class Parts:
    numbers: list[int | None]
    stay: Range[date] | None
    moods: tuple[Mood, ...]
    wait: timedelta
    raw: bytes
    more: dict[str, int]
    home: Address | None
    price: float
    host: IPv4Address


class Words(enum.StrEnum):
    SAD = "sad"
    HAPPY = "happy"


class Level(enum.IntEnum):
    ZERO = 0
    ONE = 1


class Pair(NamedTuple):
    word: Words
    level: Level


class Mapped(TypedDict):
    word: str
    level: int | None


class Node(TypedDict):
    id: int
    more: list[Node] | None


class Place(pydantic.BaseModel):
    street: str
    number: int


class Model(pydantic.BaseModel):
    id: int
    mood: Mood
    place: Place | None
    places: list[Place] = []
    tags: list[str] = pydantic.Field(alias="labels", default=[])

    @pydantic.model_validator(mode="after")
    def not_thirteen(self) -> Model:
        if self.id == 13:
            raise ValueError("13 is no id")
        return self


@attrs.frozen
class User:
    id: int
    name: str
    mood: Mood
    born: date | None = None
    tags: list[str] = attrs.field(factory=list)


ROW = {
    "id": ("int8", "7"),
    "name": ("text", "Ada"),
    "mood": ("mood", "happy"),
    "born": ("date", "1815-12-10"),
    "tags": ("_text", "{a,b}"),
    "ignored": ("date", "infinity"),
}
EXPECTED = User(7, "Ada", Mood.HAPPY, date(1815, 12, 10), ["a", "b"])


def test_a_row_becomes_an_object_of_attrs() -> None:
    assert row(**ROW).structure(User) == EXPECTED
    # The value of a column without an attribute need not be one of Python's.
    with pytest.raises(ValueConversionError):
        row(**ROW).as_python()


def test_a_change_of_a_source_has_it() -> None:
    database = MemoryDatabase()
    table = database.table("users", {"id": "int4", "name": "text"}, key="id")

    @dataclass
    class Named:
        id: int
        name: str | None

    with MemorySource.sync(database) as source:
        table.insert(id=1, name=None)
        change = next(source)
        assert isinstance(change, Insert)
        assert change.record.structure(Named) == Named(1, None)
        table.insert(id=2, name="two")
        with pytest.raises(RowStructureError) as caught:
            next(source).record.structure(Wrong)  # type: ignore[union-attr]
    assert str(caught.value) == "table public.users, column 'name': 'two' of type str is no int"
    assert (caught.value.table, caught.value.column) == ("public.users", "name")
    assert caught.value.value_type is str


@attrs.define
class Wrong:
    name: int


def test_a_dataclass_and_a_typed_dict() -> None:
    @dataclass
    class Data:
        id: int
        note: str = "none"
        more: list[int] = field(default_factory=list)

    class Needed(TypedDict):
        id: int

    class Mapped(Needed, total=False):
        note: str

    assert row(id=("int4", "1")).structure(Data) == Data(1)
    assert row(id=("int4", "1")).structure(Mapped) == {"id": 1}
    full = row(id=("int4", "1"), note=("text", "x"), other=("text", "y"))
    assert full.structure(Mapped) == {"id": 1, "note": "x"}


@pytest.mark.parametrize(
    ("kind", "pg_type", "text", "expected"),
    [
        (bool, "bool", "t", True),
        (float, "float8", "1.5", 1.5),
        (float, "int4", "2", 2.0),
        (float, "numeric", "2.5", 2.5),
        (Decimal, "numeric", "1.10", Decimal("1.10")),
        (Decimal, "int8", "3", Decimal(3)),
        (UUID, "uuid", "8d3a5a4e-6f2d-4c58-a0d9-c1b9b7a1e3a4", None),
        (datetime, "timestamptz", "2026-11-29 04:10:00+00", None),
        (bytes, "bytea", r"\x00ff", b"\x00\xff"),
        (Range[date], "daterange", "[2026-01-01,2026-02-01)", None),
        (dict[str, int], "jsonb", '{"a": 1}', {"a": 1}),
        (list[int], "_int4", "{1,2}", [1, 2]),
        (list[int | None], "_int4", "{1,NULL}", [1, None]),
        (set[str], "_text", "{a}", {"a"}),
        (tuple[int, ...], "_int4", "{1,2}", (1, 2)),
        (list[Mood], "_text", "{sad}", [Mood.SAD]),
        (Any, "inet", "10.0.0.1", None),
        (Mood, "mood", "SAD", Mood.SAD),
        (Address, "address", '("Long ""Lane"", \\\\ 1",7,2026-01-01)', None),
        (Address, "address", "(Lane,7,)", Address("Lane", 7, None)),
        (Address, "jsonb", '{"street": "Lane", "number": 7, "since": null}', None),
        (list[Mood], "_mood", "{sad,happy}", [Mood.SAD, Mood.HAPPY]),
        (list[list[int]], "_cell", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (list[Place], "_place", '{"(Lane,7)"}', [Place(street="Lane", number=7)]),
        (Range[float], "span", "[1.5,)", Range(1.5, None, "[)")),
        (Range[int], "span", "empty", Range(empty=True)),
        (Multirange[int], "spans", "{[1,2),[5,7)}", Multirange([Range(1, 2), Range(5, 7)])),
        (frozenset[int], "_int4", "{1,1}", frozenset([1])),
        (Place, "place", "(Lane,7)", Place(street="Lane", number=7)),
        (timedelta, "interval", "1 day", timedelta(days=1)),
        (
            Parts,
            "parts",
            '("{1,NULL}","[2026-01-01,)","{sad}","1 day 02:00:00","\\\\x00ff","{""a"": 1}",'
            '"(Lane,7,)",1.5,10.0.0.1)',
            Parts(
                [1, None],
                Range(date(2026, 1, 1), None),
                (Mood.SAD,),
                timedelta(days=1, hours=2),
                b"\x00\xff",
                {"a": 1},
                Address("Lane", 7, None),
                1.5,
                IPv4Address("10.0.0.1"),
            ),
        ),
        (Words, "mood", "sad", Words.SAD),
        (list[Words], "_mood", "{happy}", [Words.HAPPY]),
        (Level, "int2", "0", Level.ZERO),
        (list[Level], "_level", "{0,1}", [Level.ZERO, Level.ONE]),
        (Pair, "pair", "(sad,0)", Pair(Words.SAD, Level.ZERO)),
        (tuple[str, int], "pair", "(sad,0)", ("sad", 0)),
        (tuple[int, int], "_int4", "{1,2}", (1, 2)),
        (list[Mapped | None], "_pair", '{"(a,)",NULL}', [{"word": "a", "level": None}, None]),
        (Node, "jsonb", '{"id": 1, "more": []}', {"id": 1, "more": []}),
        (IPv4Address | IPv6Address, "inet", "10.0.0.1", IPv4Address("10.0.0.1")),
        (Mood | str | None, "mood", "angry", "angry"),
        (Mood | str | None, "mood", "sad", Mood.SAD),
        (Mood | str | Unchanged | None, "mood", "sad", Mood.SAD),
        (str | Unchanged, "text", "x", "x"),
        (int | Unchanged | None, "int4", "1", 1),
    ],
)
def test_what_an_attribute_takes(kind: Any, pg_type: str, text: str, expected: Any) -> None:
    made = attrs.make_class("Made", {"value": attrs.field(type=kind)})
    record = row(value=(pg_type, text))
    value = record.structure(made).value  # type: ignore[attr-defined]
    # What is generated for a table does as what says what is wrong.
    assert record.shape.makers[made] is not None
    record.shape.makers[made] = None
    assert record.structure(made).value == value  # type: ignore[attr-defined]
    if expected is not None:
        assert value == expected
        assert type(value) is type(expected)
    elif kind is Any:
        assert str(value) == text
    elif kind is Address:
        assert value in (
            Address('Long "Lane", \\ 1', 7, date(2026, 1, 1)),
            Address("Lane", 7, None),
        )
    elif kind is datetime:
        assert value == datetime(2026, 11, 29, 4, 10, tzinfo=UTC)
    elif kind is UUID:
        assert str(value) == text
    else:
        assert value == Range(date(2026, 1, 1), date(2026, 2, 1))


@pytest.mark.parametrize(
    ("kind", "pg_type", "text", "said"),
    [
        (int, "int4", None, "NULL is no int"),
        (int, "numeric", "1.5", r"Decimal\('1.5'\) of type Decimal is no int"),
        (int, "bool", "t", "True of type bool is no int"),
        (date, "timestamp", "2026-01-01 00:00:00", "of type datetime is no date"),
        (str, "int4", "1", "1 of type int is no str"),
        (str, "text", UNCHANGED, "UNCHANGED, which the message does not carry, is no str"),
        (str | None, "text", UNCHANGED, "UNCHANGED, which the message does not carry, is no str"),
        (Mood, "mood", "angry", "'angry' of type str is neither a value nor a name of Mood"),
        (list[int], "_text", "{x}", "'x' of type str is no int, at 0 of it$"),
        (Address, "address", "(Lane,7)", "a composite of 2 fields is no Address, which has 3"),
        (Address, "address", "(Lane,x,)", "literal for int.*'x', at number of it$"),
        (Address, "text", "Lane", "'Lane' is no composite"),
        (Address, "int4", "1", "1 of type int is no Address"),
        (Range[date], "text", "x", "'x' is no Range"),
        (Multirange[date], "text", "x", "'x' is no Multirange"),
        (Range[date], "int4", "1", "1 of type int is no Range"),
        (Range[date], "span", "[x,)", "Invalid isoformat string: 'x'"),
        (list[str], "text", "abc", "'abc' is no array"),
        (list[str], "int4", "1", "1 of type int is no list"),
        (list[Mood], "_mood", "{sad,angry}", "'angry' .* name of Mood, at 1 of it$"),
        (list[int], "_cell", "{1,NULL}", "NULL is no int, at 1 of it$"),
        (Place, "place", "(Lane,x)", "valid integer.*, at number of it$"),
        (Words, "mood", "angry", "'angry' .* name of Words"),
        (Mood | int | None, "mood", "angry", "'angry' of type str is no Mood or int"),
        (tuple[str, str], "text", "ab", "'ab' is no composite"),
        (tuple[int, int], "_int4", "{1}", r"\[1\] of type list is no tuple of 2"),
        (Pair, "pair", "(sad,2)", "'2' .* name of Level, at 1 of it$"),
    ],
)
def test_what_it_refuses(kind: Any, pg_type: str, text: Any, said: str) -> None:
    made = attrs.make_class("Made", {"value": attrs.field(type=kind)})
    with pytest.raises(RowStructureError, match=said) as caught:
        row(value=(pg_type, text)).structure(made)
    assert caught.value.column == "value"
    assert str(caught.value).startswith("table public.users, column 'value': ")


def test_a_column_that_is_missing_is_named() -> None:
    with pytest.raises(RowStructureError, match="no such column, which User needs") as caught:
        row(id=("int4", "1"), name=("text", "x")).structure(User)
    assert (caught.value.column, caught.value.value_type) == ("mood", None)


def test_unchanged_stays_where_the_attribute_takes_it() -> None:
    made = attrs.make_class("Made", {"value": attrs.field(type=str | Unchanged)})
    value = row(value=("text", UNCHANGED)).structure(made).value  # type: ignore[attr-defined]
    assert value is UNCHANGED


def test_a_value_that_python_cannot_hold_is_an_error_of_its_own() -> None:
    with pytest.raises(ValueConversionError, match=r"^table public\.users, .*infinity"):
        row(**(ROW | {"born": ("date", "infinity")})).structure(User)


def test_a_model_of_pydantic_is_made_by_its_validator() -> None:
    fields: dict[str, Any] = {
        "id": ("int8", "7"),
        "mood": ("mood", "sad"),
        "place": ("place", "(Lane,7)"),
        "places": ("_place", '{"(A,1)","(B,2)"}'),
        "labels": ("_text", "{a}"),
        "other": ("text", "x"),
    }
    assert row(**fields).structure(Model) == Model(
        id=7,
        mood=Mood.SAD,
        place=Place(street="Lane", number=7),
        places=[Place(street="A", number=1), Place(street="B", number=2)],
        labels=["a"],
    )
    with pytest.raises(RowStructureError, match=r"valid integer.*, at 1.number of it$") as caught:
        row(**fields | {"places": ("_place", '{"(A,1)","(B,x)"}')}).structure(Model)
    assert (caught.value.column, caught.value.value_type) == ("places", str)
    with pytest.raises(RowStructureError, match="no such column, which Model needs") as caught:
        row(id=("int8", "7"), mood=("mood", "sad")).structure(Model)
    assert caught.value.column == "place"


@pytest.mark.parametrize("kind", [Model, dataclass])
def test_a_class_that_refuses_a_row_as_a_whole(kind: Any) -> None:
    @dataclass
    class Refuses:
        id: int

        def __post_init__(self) -> None:
            raise ValueError("13 is no id")

    fields = {"id": ("int8", "13"), "mood": ("mood", "sad"), "place": ("place", None)}
    with pytest.raises(
        RowStructureError, match=r"^table public.users: \w+ refuses .* is no id"
    ) as e:
        row(**fields).structure(Model if kind is Model else Refuses)  # type: ignore[arg-type]
    assert (e.value.column, e.value.value_type) == (None, None)


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a class of attrs or pydantic, .* <class 'int'> is none"):
        row(id=("int8", "7")).structure(int)


@pytest.mark.parametrize(
    "kind", [complex, object, list[complex], complex | int, "Nowhere", "list[complex] | None"]
)
def test_a_class_that_no_row_can_become_is_refused(kind: Any) -> None:
    made = make_dataclass("Made", [("value", kind)])
    source = MemorySource()
    with pytest.raises(ConfigError, match="Made"):
        source.typed({"public.users": made})
    with pytest.raises(TypeError, match="Made"):
        row(value=("int4", "1")).structure(made)


def test_binary_rows_are_not_read_as_texts() -> None:
    made = attrs.make_class("Made", {"id": attrs.field(type=int)})
    record = row(id=("int4", "7"))
    binary = Record(record.shape, (b"1234",))
    assert [each.structure(made).id for each in (record, binary)] == [7, 0x31323334]  # type: ignore[attr-defined]


def test_the_name_of_an_argument_may_be_another_and_what_has_a_default_may_be_left_out() -> None:
    @attrs.define
    class Private:
        _id: int
        extra: str = "none"
        made: str = attrs.field(init=False, default="x")

    assert row(_id=("int4", "7"), made=("text", "y")).structure(Private) == Private(7)
