"""The assembler: what a sequence of messages becomes.

A row's relation is compared by identity, so the expected changes are built with the
relation of the change, which its own tests compare field by field.
"""

from datetime import UTC, datetime

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Column,
    Commit,
    DecodeError,
    Delete,
    Insert,
    LogicalMessage,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
    StreamIdentity,
    Transaction,
    Truncate,
    UnknownRelationError,
    UnknownTypeError,
    Update,
)
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    CommitMessage,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    RelationColumn,
    RelationMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)

COMMIT = LSN.parse("16/B374D848")
END = LSN.parse("16/B374D878")
TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
MICROSECONDS = 820_638_245_678_901

BEGIN = BeginMessage(COMMIT, MICROSECONDS, 731)
END_OF_IT = CommitMessage(0, COMMIT, END, MICROSECONDS)
TRANSACTION = Transaction(731, COMMIT, TIME)

PEOPLE = RelationMessage(
    16385,
    "public",
    "people",
    "d",
    (
        RelationColumn(1, "id", 23, -1),
        RelationColumn(0, "name", 25, -1),
        RelationColumn(1, "tenant", 23, -1),
    ),
)
ORDERS = RelationMessage(16386, "public", "orders", "d", (RelationColumn(1, "id", 20, -1),))
FULL = RelationMessage(
    16387,
    "public",
    "pages",
    "f",
    (RelationColumn(1, "id", 23, -1), RelationColumn(1, "text", 25, -1)),
)


def feed(assembler: Assembler, *messages: Message) -> list[object]:
    """Feed all of them and return all that comes out."""
    return [event for message in messages for event in assembler.feed(message)]


def describe(*messages: Message) -> Relation:
    """Return the relation that an Insert gets after these messages."""
    relation = next(message for message in messages if isinstance(message, RelationMessage))
    new = (None,) * len(relation.columns)
    *_, change = feed(Assembler(), BEGIN, *messages, InsertMessage(relation.relation_oid, new))
    assert isinstance(change, Insert)
    return change.relation


def a_change(relation: RelationMessage, message: Message) -> Insert | Update | Delete:
    """Return what the message becomes within a transaction."""
    *_, change = feed(Assembler(), BEGIN, relation, message)
    assert isinstance(change, Insert | Update | Delete)
    return change


# Transactions and positions


def test_a_transaction_is_begin_changes_commit() -> None:
    events = feed(
        Assembler(),
        BEGIN,
        PEOPLE,
        InsertMessage(16385, ("1", "Ada", "7")),
        UpdateMessage(16385, None, False, ("1", None, "7")),
        DeleteMessage(16385, ("1", None, "7"), True),
        END_OF_IT,
    )
    insert = events[1]
    assert isinstance(insert, Insert)
    relation = insert.relation
    assert events == [
        Begin(TRANSACTION),
        Insert(TRANSACTION, 0, relation, Record(relation.shape, ("1", "Ada", "7"))),
        Update(TRANSACTION, 1, relation, Record(relation.shape, ("1", None, "7")), None),
        Delete(TRANSACTION, 2, relation, Record(relation.key_shape, ("1", "7"))),
        Commit(TRANSACTION, END, 3),
    ]


def test_changes_come_out_as_their_messages_come_in() -> None:
    """Memory stays constant whatever the transaction's size."""
    assembler = Assembler()
    feed(assembler, BEGIN, PEOPLE)
    for index in range(3):
        (insert,) = assembler.feed(InsertMessage(16385, (str(index), None, "7")))
        assert isinstance(insert, Insert)
        assert (insert.index, insert.record["id"]) == (index, index)


def test_the_index_starts_again_with_each_transaction() -> None:
    insert = InsertMessage(16385, ("1", None, "7"))
    later = LSN(COMMIT + 100)
    events = feed(
        Assembler(),
        *(BEGIN, PEOPLE, insert, insert, END_OF_IT),
        *(BeginMessage(later, MICROSECONDS, 732), insert),
        CommitMessage(0, later, LSN(later + 8), MICROSECONDS),
    )
    positions = [event.position for event in events if isinstance(event, Insert)]
    assert positions == [Position(COMMIT, 0), Position(COMMIT, 1), Position(later, 0)]
    assert [event.changes for event in events if isinstance(event, Commit)] == [2, 1]


def test_what_counts_for_the_index_is_rows_truncates_and_transactional_messages() -> None:
    events = feed(
        Assembler(),
        BEGIN,
        PEOPLE,
        TruncateMessage(0, (16385,)),
        LogicalMessageMessage(1, LSN(5), "app", b"in"),
        LogicalMessageMessage(0, LSN(6), "app", b"out"),
        InsertMessage(16385, ("1", None, "7")),
        END_OF_IT,
    )
    positions = [
        event.position
        for event in events
        if isinstance(event, Insert | Truncate | LogicalMessage | Commit)
    ]
    assert positions == [
        Position(COMMIT, 0),
        Position(COMMIT, 1),
        Position(LSN(5), 0),
        Position(COMMIT, 2),
        Position(COMMIT, 2),
    ]


def test_transactional_messages_can_be_dropped_and_do_not_count_then() -> None:
    inner = LogicalMessageMessage(1, LSN(5), "app", b"in")
    alone = LogicalMessageMessage(0, LSN(6), "app", b"out")
    insert = InsertMessage(16385, ("1", None, "7"))
    plain = feed(
        Assembler(transactional_messages=False),
        *(BEGIN, inner, PEOPLE, inner, insert, alone, inner, insert, END_OF_IT),
        alone,
    )
    without = feed(Assembler(), *(BEGIN, PEOPLE, insert, insert, END_OF_IT))
    begin, first, message, second, commit, last = plain
    assert [type(event) for event in (message, last)] == [LogicalMessage] * 2
    assert message == last == LogicalMessage(LSN(6), "app", b"out", None, 0)
    assert (
        [each.position for each in (first, second, commit)]
        == [  # type: ignore[attr-defined]
            each.position
            for each in without[1:]  # type: ignore[attr-defined]
        ]
    )
    assert begin == without[0]


def test_the_stream_goes_into_every_position() -> None:
    stream = StreamIdentity(1, 1, ("shop",))
    events = feed(
        Assembler(stream),
        BEGIN,
        PEOPLE,
        InsertMessage(16385, ("1", None, "7")),
        LogicalMessageMessage(1, LSN(5), "app", b""),
        LogicalMessageMessage(0, LSN(6), "app", b""),
        END_OF_IT,
    )
    assert [
        event.position.stream
        for event in events
        if isinstance(event, Insert | LogicalMessage | Commit)
    ] == [stream] * 4


def test_an_empty_transaction_is_begin_and_commit() -> None:
    assert feed(Assembler(), BEGIN, END_OF_IT) == [
        Begin(TRANSACTION),
        Commit(TRANSACTION, END, 0),
    ]


def test_in_transaction_tells_whether_a_commit_is_due() -> None:
    assembler = Assembler()
    assert not assembler.in_transaction
    assembler.feed(BEGIN)
    assert assembler.in_transaction
    assembler.feed(END_OF_IT)
    assert not assembler.in_transaction


def test_a_commit_time_is_microseconds_since_2000_in_utc() -> None:
    epoch = BeginMessage(COMMIT, 0, 731)
    assert feed(Assembler(), epoch, END_OF_IT)[0] == Begin(
        Transaction(731, COMMIT, datetime(2000, 1, 1, tzinfo=UTC))
    )


@pytest.mark.parametrize("microseconds", [2**63 - 1, -(2**63)])
def test_a_commit_time_that_no_datetime_holds_is_an_error(microseconds: int) -> None:
    with pytest.raises(DecodeError, match="out of range"):
        Assembler().feed(BeginMessage(COMMIT, microseconds, 731))


def test_a_transaction_from_elsewhere_names_its_origin_from_begin_on() -> None:
    events = feed(
        Assembler(),
        BEGIN,
        OriginMessage(LSN.parse("0/ABCDEF01"), "upstream"),
        ORDERS,
        InsertMessage(16386, ("1",)),
        END_OF_IT,
        BEGIN,
        END_OF_IT,
    )
    origins = [
        event.transaction.origin for event in events if isinstance(event, Begin | Insert | Commit)
    ]
    assert origins == ["upstream", "upstream", "upstream", None, None]


@pytest.mark.parametrize("origin", [None, "upstream"])
def test_an_origin_that_comes_too_late_is_an_error(origin: str | None) -> None:
    """Begin has been handed over without it."""
    first = [] if origin is None else [OriginMessage(LSN(1), origin)]
    assembler = Assembler()
    feed(assembler, BEGIN, *first, ORDERS)
    with pytest.raises(
        DecodeError, match=rf"'another' comes too late: .* 731 .* with origin {origin!r}"
    ):
        assembler.feed(OriginMessage(LSN(1), "another"))


def test_the_same_origin_again_is_none_the_worse() -> None:
    """PostgreSQL's documentation allows for several."""
    origin = OriginMessage(LSN(1), "upstream")
    begin, commit = feed(Assembler(), BEGIN, origin, origin, END_OF_IT)
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert begin.transaction == commit.transaction
    assert begin.transaction.origin == "upstream"


# Relations and types


def test_a_relation_is_what_its_message_says() -> None:
    relation = describe(PEOPLE)
    assert (relation.oid, relation.schema, relation.table, relation.replica_identity) == (
        16385,
        "public",
        "people",
        ReplicaIdentity.DEFAULT,
    )
    assert relation.columns == (
        Column("id", 23, "int4", "pg_catalog", -1, True),
        Column("name", 25, "text", "pg_catalog", -1, False),
        Column("tenant", 23, "int4", "pg_catalog", -1, True),
    )


@pytest.mark.parametrize("identity", list(ReplicaIdentity))
def test_every_replica_identity_is_known(identity: ReplicaIdentity) -> None:
    relation = describe(RelationMessage(16385, "s", "t", identity.value, ()))
    assert relation.replica_identity is identity


def test_an_empty_namespace_is_pg_catalog() -> None:
    assert describe(RelationMessage(1259, "", "pg_class", "n", ())).schema == "pg_catalog"


def test_a_type_modifier_is_kept() -> None:
    price = RelationColumn(0, "price", 1700, 655366)
    (column,) = describe(RelationMessage(16385, "s", "t", "d", (price,))).columns
    assert column == Column("price", 1700, "numeric", "pg_catalog", 655366, False)


@pytest.mark.parametrize(
    ("described", "column"),
    [
        (
            TypeMessage(16400, "public", "mood"),
            Column("c", 16400, "mood", "public", -1, False),
        ),
        (
            # A domain's carries its base type.
            TypeMessage(16400, "", "int4"),
            Column("c", 16400, "int4", "pg_catalog", -1, False),
        ),
        (
            TypeMessage(16400, "other", "mood"),
            Column("c", 16400, "mood", "other", -1, False),
        ),
    ],
)
def test_a_type_of_ones_own_is_named_by_its_message(described: TypeMessage, column: Column) -> None:
    relation = RelationMessage(16385, "s", "t", "d", (RelationColumn(0, "c", 16400, -1),))
    assert describe(described, relation).columns == (column,)


def test_a_type_message_wins_over_the_table_of_builtin_types() -> None:
    relation = RelationMessage(16385, "s", "t", "d", (RelationColumn(0, "c", 23, -1),))
    (column,) = describe(TypeMessage(23, "public", "mine"), relation).columns
    assert (column.type_schema, column.type_name) == ("public", "mine")


def test_a_domain_over_int4_converts_to_int_and_an_enum_stays_text() -> None:
    relation = RelationMessage(
        16385,
        "s",
        "t",
        "d",
        (RelationColumn(0, "positive", 16400, -1), RelationColumn(0, "mood", 16401, -1)),
    )
    *_, insert = feed(
        Assembler(),
        BEGIN,
        TypeMessage(16400, "", "int4"),
        TypeMessage(16401, "public", "mood"),
        relation,
        InsertMessage(16385, ("7", "ok")),
    )
    assert isinstance(insert, Insert)
    assert insert.record.as_python() == {"positive": 7, "mood": "ok"}


def test_a_relation_stays_known_in_later_transactions() -> None:
    insert = InsertMessage(16386, ("1",))
    events = feed(Assembler(), BEGIN, ORDERS, insert, END_OF_IT, BEGIN, insert, insert, END_OF_IT)
    relations = {event.relation for event in events if isinstance(event, Insert)}
    assert len(relations) == 1


def test_ddl_in_mid_stream_replaces_the_relation_and_leaves_earlier_rows_alone() -> None:
    wider = RelationMessage(
        16386,
        "sales",
        "orders",
        "f",
        (RelationColumn(1, "number", 25, -1), RelationColumn(1, "paid", 16, -1)),
    )
    events = feed(
        Assembler(),
        BEGIN,
        ORDERS,
        InsertMessage(16386, ("1",)),
        wider,
        InsertMessage(16386, ("2", "t")),
        END_OF_IT,
    )
    before, after = (event for event in events if isinstance(event, Insert))
    assert before.record.as_python() == {"id": 1}
    assert after.record.as_python() == {"number": "2", "paid": True}
    assert (str(before.relation), str(after.relation)) == ("public.orders", "sales.orders")
    assert (before.index, after.index) == (0, 1)


# Rows


def test_an_update_without_an_old_tuple_has_no_old_record() -> None:
    update = a_change(PEOPLE, UpdateMessage(16385, None, False, ("1", "Ada", "7")))
    assert isinstance(update, Update)
    assert update.old_record is None
    assert update.record.as_text() == {"id": "1", "name": "Ada", "tenant": "7"}


def test_the_old_key_of_an_update_has_the_key_columns_only() -> None:
    update = a_change(PEOPLE, UpdateMessage(16385, ("1", None, "7"), True, ("2", "Ada", "7")))
    assert isinstance(update, Update)
    assert update.old_record is not None
    assert update.old_record.as_text() == {"id": "1", "tenant": "7"}
    assert update.record.as_text() == {"id": "2", "name": "Ada", "tenant": "7"}


def test_the_key_of_a_delete_has_the_key_columns_only() -> None:
    delete = a_change(PEOPLE, DeleteMessage(16385, ("1", None, "7"), True))
    assert isinstance(delete, Delete)
    assert delete.old_record.as_text() == {"id": "1", "tenant": "7"}
    assert "name" not in delete.old_record


def test_under_full_a_delete_has_the_whole_row_null_included() -> None:
    delete = a_change(FULL, DeleteMessage(16387, ("1", None), False))
    assert isinstance(delete, Delete)
    assert delete.old_record.as_text() == {"id": "1", "text": None}


def test_under_full_unchanged_toast_is_taken_from_the_old_row() -> None:
    update = a_change(FULL, UpdateMessage(16387, ("1", "long"), False, ("2", UNCHANGED)))
    assert isinstance(update, Update)
    assert update.record.as_text() == {"id": "2", "text": "long"}
    assert update.old_record is not None
    assert update.old_record.as_text() == {"id": "1", "text": "long"}


def test_an_unchanged_toasted_key_is_taken_from_the_old_key() -> None:
    update = a_change(
        PEOPLE, UpdateMessage(16385, ("1", None, "7"), True, (UNCHANGED, UNCHANGED, "8"))
    )
    assert isinstance(update, Update)
    assert update.record.as_text() == {"id": "1", "name": UNCHANGED, "tenant": "8"}


def test_other_unchanged_toast_is_not_taken_from_an_old_key() -> None:
    """There the other columns are null because they were not sent."""
    update = a_change(PEOPLE, UpdateMessage(16385, ("1", None, "7"), True, ("2", UNCHANGED, "7")))
    assert update == Update(
        TRANSACTION,
        0,
        update.relation,
        Record(update.relation.shape, ("2", UNCHANGED, "7")),
        Record(update.relation.key_shape, ("1", "7")),
    )


def test_unchanged_toast_without_an_old_row_is_not_null() -> None:
    update = a_change(PEOPLE, UpdateMessage(16385, None, False, ("1", UNCHANGED, "7")))
    assert isinstance(update, Update)
    assert update.record["name"] is UNCHANGED
    null = a_change(PEOPLE, UpdateMessage(16385, None, False, ("1", None, "7")))
    assert isinstance(null, Update)
    assert null.record["name"] is None
    assert update.record != null.record


def test_a_row_without_columns_is_an_empty_record() -> None:
    empty = RelationMessage(16388, "public", "empty", "f", ())
    insert = a_change(empty, InsertMessage(16388, ()))
    assert isinstance(insert, Insert)
    assert insert.record == {}


# Truncates and messages


def test_a_truncate_of_several_relations_is_one_change() -> None:
    events = feed(Assembler(), BEGIN, PEOPLE, ORDERS, TruncateMessage(0, (16386, 16385)), END_OF_IT)
    truncate = events[1]
    assert isinstance(truncate, Truncate)
    assert [str(relation) for relation in truncate.relations] == [
        "public.orders",
        "public.people",
    ]
    assert events == [
        Begin(TRANSACTION),
        Truncate(TRANSACTION, 0, truncate.relations, False, False),
        Commit(TRANSACTION, END, 1),
    ]


@pytest.mark.parametrize(
    ("options", "cascade", "restart_identity"),
    [(0, False, False), (1, True, False), (2, False, True), (3, True, True)],
)
def test_the_options_of_a_truncate_are_told_apart(
    options: int, cascade: bool, restart_identity: bool
) -> None:
    *_, truncate = feed(Assembler(), BEGIN, ORDERS, TruncateMessage(options, (16386,)))
    assert isinstance(truncate, Truncate)
    assert (truncate.cascade, truncate.restart_identity) == (cascade, restart_identity)


def test_a_transactional_message_belongs_to_its_transaction() -> None:
    *_, message = feed(Assembler(), BEGIN, LogicalMessageMessage(1, LSN(5), "app", b"\x00\xff"))
    assert message == LogicalMessage(LSN(5), "app", b"\x00\xff", TRANSACTION, 0)


def test_another_message_has_no_transaction_wherever_it_comes() -> None:
    message = LogicalMessageMessage(0, LSN(5), "app", b"now")
    alone = LogicalMessage(LSN(5), "app", b"now", None, 0)
    events = feed(Assembler(), message, BEGIN, message, END_OF_IT)
    assert events == [alone, Begin(TRANSACTION), alone, Commit(TRANSACTION, END, 0)]


# What cannot be


@pytest.mark.parametrize(
    "message",
    [
        InsertMessage(16385, ("1", None, "7")),
        UpdateMessage(16385, None, False, ("1", None, "7")),
        DeleteMessage(16385, ("1", None, "7"), True),
        TruncateMessage(0, (16385,)),
        OriginMessage(LSN(1), "upstream"),
        LogicalMessageMessage(1, LSN(5), "app", b""),
        END_OF_IT,
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_belongs_to_a_transaction_is_an_error_outside_of_one(message: Message) -> None:
    assembler = Assembler()
    feed(assembler, BEGIN, PEOPLE, END_OF_IT)
    with pytest.raises(DecodeError, match=f"{type(message).__name__} outside of a transaction"):
        assembler.feed(message)


def test_a_begin_within_a_transaction_is_an_error() -> None:
    assembler = Assembler()
    assembler.feed(BEGIN)
    with pytest.raises(DecodeError, match="BeginMessage within transaction 731"):
        assembler.feed(BeginMessage(LSN(COMMIT + 1), 0, 732))


def test_a_commit_of_another_transaction_is_an_error() -> None:
    assembler = Assembler()
    assembler.feed(BEGIN)
    with pytest.raises(DecodeError, match=r"Commit at 0/1, but .* commits at 16/B374D848"):
        assembler.feed(CommitMessage(0, LSN(1), END, MICROSECONDS))


@pytest.mark.parametrize(
    "message",
    [
        InsertMessage(99, ("1",)),
        UpdateMessage(99, None, False, ("1",)),
        DeleteMessage(99, ("1",), True),
        TruncateMessage(0, (16386, 99)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_relation_that_was_not_described_is_an_error(message: Message) -> None:
    assembler = Assembler()
    feed(assembler, BEGIN, ORDERS)
    with pytest.raises(UnknownRelationError) as caught:
        assembler.feed(message)
    assert caught.value.relation_oid == 99


def test_a_type_that_was_not_described_is_an_error() -> None:
    relation = RelationMessage(16385, "s", "t", "d", (RelationColumn(0, "c", 16400, -1),))
    with pytest.raises(UnknownTypeError, match=r"type 16400 of column 'c' in s\.t") as caught:
        feed(Assembler(), BEGIN, relation)
    assert caught.value.type_oid == 16400


@pytest.mark.parametrize(
    "message",
    [
        InsertMessage(16385, ("1", "Ada")),
        InsertMessage(16385, ("1", "Ada", "7", "more")),
        InsertMessage(16385, ()),
        UpdateMessage(16385, None, False, ("1", "Ada")),
        UpdateMessage(16385, ("1", None), True, ("1", "Ada", "7")),
        UpdateMessage(16385, ("1", "Ada"), False, ("1", UNCHANGED, "7")),
        UpdateMessage(16385, ("1", "Ada", "7"), False, ("1", UNCHANGED)),
        DeleteMessage(16385, ("1", None), True),
        DeleteMessage(16385, ("1", "Ada", "7", "more"), False),
    ],
)
def test_a_row_that_does_not_fit_its_relation_is_an_error(message: Message) -> None:
    assembler = Assembler()
    feed(assembler, BEGIN, PEOPLE)
    with pytest.raises(DecodeError, match=r"public\.people has \d fields, its relation 3 columns"):
        assembler.feed(message)


def test_after_an_error_it_takes_no_more_messages() -> None:
    assembler = Assembler()
    feed(assembler, BEGIN, ORDERS)
    with pytest.raises(UnknownRelationError):
        assembler.feed(InsertMessage(99, ("1",)))
    with pytest.raises(DecodeError, match="start with a new one"):
        assembler.feed(InsertMessage(16386, ("1",)))
