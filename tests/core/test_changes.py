from datetime import UTC, datetime

from realtime_core import (
    LSN,
    Begin,
    Change,
    Column,
    Commit,
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
    Update,
)

STREAM = StreamIdentity(7_300_000_000_000_000_001, 1, ("shop",))
COMMIT = LSN.parse("16/B374D848")
TRANSACTION = Transaction(731, COMMIT, datetime(2026, 1, 2, tzinfo=UTC), None, STREAM)


def relation(*key: str) -> Relation:
    columns = tuple(
        Column(name, 25, "text", "pg_catalog", -1, name in key) for name in ("a", "b", "c")
    )
    return Relation(16385, "public", "people", ReplicaIdentity.DEFAULT, columns)


PEOPLE = relation("a", "c")
ROW = Record(PEOPLE.shape, ("1", "x", "2"))


def test_every_change_knows_its_position() -> None:
    changes: list[Change] = [
        Insert(TRANSACTION, 0, PEOPLE, ROW),
        Update(TRANSACTION, 1, PEOPLE, ROW, None),
        Delete(TRANSACTION, 2, PEOPLE, ROW),
        Truncate(TRANSACTION, 3, (PEOPLE,), False, False),
        LogicalMessage(LSN(5), "app", b"", TRANSACTION, 4, STREAM),
    ]
    assert [change.position for change in changes] == [
        Position(COMMIT, index, STREAM) for index in range(5)
    ]


def test_a_message_without_a_transaction_stands_at_its_own_lsn() -> None:
    message = LogicalMessage(LSN(5), "app", b"", None, 0, STREAM)
    # A commit record may begin where the message's ends.
    assert message.position == Position(LSN(4), 0, STREAM)


def test_a_commit_stands_at_the_last_change() -> None:
    assert Commit(TRANSACTION, LSN(9), 5).position == Position(COMMIT, 4, STREAM)


def test_a_commit_of_nothing_stands_at_its_beginning() -> None:
    assert Commit(TRANSACTION, LSN(9), 0).position == Position(COMMIT, 0, STREAM)


def test_a_match_statement_tells_the_changes_apart() -> None:
    def describe(event: Change | Begin | Commit) -> str:
        match event:
            case Insert(relation=relation, record=record):
                return f"+{relation} {record['a']}"
            case Update(record=record, old_record=None):
                return f"~{record['a']}"
            case Update(old_record=old):
                return f"~{old}"
            case Delete(old_record=old):
                return f"-{old['a']}"
            case Truncate(relations=relations):
                return f"0{len(relations)}"
            case LogicalMessage(prefix=prefix):
                return f"!{prefix}"
            case Begin(transaction):
                return f"[{transaction.xid}"
            case Commit(transaction):
                return f"]{transaction.xid}"

    assert [
        describe(Insert(TRANSACTION, 0, PEOPLE, ROW)),
        describe(Update(TRANSACTION, 1, PEOPLE, ROW, None)),
        describe(Delete(TRANSACTION, 2, PEOPLE, ROW)),
        describe(Truncate(TRANSACTION, 3, (PEOPLE, PEOPLE), False, False)),
        describe(LogicalMessage(LSN(5), "app", b"", TRANSACTION, 4)),
        describe(Begin(TRANSACTION)),
        describe(Commit(TRANSACTION, LSN(9), 5)),
    ] == ["+public.people 1", "~1", "-1", "02", "!app", "[731", "]731"]


def test_a_relation_knows_the_shape_of_its_rows_and_of_its_keys() -> None:
    assert PEOPLE.shape.names == ("a", "b", "c")
    assert PEOPLE.key_shape.names == ("a", "c")
    assert PEOPLE.key_places == (0, 2)
    assert str(PEOPLE) == "public.people"


def test_a_relation_without_a_key_has_an_empty_key_shape() -> None:
    assert relation().key_shape.names == ()
    assert relation().key_places == ()


def test_two_descriptions_of_one_table_are_two_relations() -> None:
    """What was computed from the old one must not be found under the new one."""
    assert relation("a") != relation("a")
    assert len({relation("a"), relation("a")}) == 2
