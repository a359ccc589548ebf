import copy
import pickle

import pytest

from realtime_core import GapReason, errors
from realtime_core.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    ConsumerDroppedError,
    DecodeError,
    FilterError,
    FilterMatchError,
    OutputPluginError,
    OutputPluginNotAllowedError,
    PositionMismatchError,
    PrivilegeError,
    PublicationNotFoundError,
    RealtimeError,
    RowStructureError,
    ServerError,
    SlotError,
    SlotInUseError,
    SlotLostError,
    SlotUnavailableError,
    SnapshotTimeoutError,
    SourceError,
    SpillError,
    TransactionTooLargeError,
    TruncatedMessageError,
    UnknownMessageError,
    UnknownRelationError,
    UnknownTypeError,
    ValueConversionError,
    WalLevelError,
)

EXAMPLES = [
    AuthenticationError("password authentication failed"),
    ConfigError(["PORT must be a number, not 'x'", "PUBLICATIONS must be a JSON list"]),
    ConnectionLostError("connection refused"),
    DecodeError("negative count -1"),
    FilterError("unexpected end", text="a=", position=2),
    FilterMatchError("a row of public.t cannot be matched", text="a=eq.1", position=0),
    OutputPluginError("the output plugin 'wal2json' is not installed"),
    OutputPluginNotAllowedError("wal2json"),
    PositionMismatchError("cannot order"),
    ConsumerDroppedError("search", 10_000, 2_000_000),
    PrivilegeError("must be superuser"),
    PublicationNotFoundError(["shop", 'odd"name'], "app"),
    RealtimeError("anything"),
    RowStructureError("public.users", "age", str, "'x' of type str is no int"),
    ServerError("no"),
    SlotError("etl", "something about etl"),
    SlotInUseError("etl", 42),
    SlotLostError("etl", "slot 'etl' is gone", GapReason.SLOT_MISSING),
    SnapshotTimeoutError(3600),
    SlotUnavailableError("etl", "all slots are in use"),
    SourceError("refused"),
    SpillError("no space left on device"),
    TransactionTooLargeError(742, 1_000_000),
    TruncatedMessageError("the message is empty"),
    UnknownMessageError(0x7A),
    UnknownRelationError(16385),
    UnknownTypeError(16400, column="mood", relation="public.people"),
    ValueConversionError("born", "date", "infinity", "date too large", table="public.users"),
    WalLevelError("replica"),
]


def test_every_error_has_an_example_here() -> None:
    assert sorted(type(error).__name__ for error in EXAMPLES) == sorted(errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_one_root_catches_every_error(error: RealtimeError) -> None:
    assert isinstance(error, RealtimeError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_passes_between_processes_whole(error: RealtimeError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    "error",
    [error for error in EXAMPLES if isinstance(error, DecodeError)],
    ids=lambda error: type(error).__name__,
)
def test_bytes_that_are_no_message_are_a_value_error_too(error: DecodeError) -> None:
    assert isinstance(error, ValueError)


def test_only_what_may_pass_by_itself_is_transient() -> None:
    transient = {
        type(error) for error in EXAMPLES if isinstance(error, SourceError) and error.transient
    }
    assert transient == {ConnectionLostError, SlotInUseError}


def test_config_error_lists_every_problem() -> None:
    error = ConfigError(["PORT is taken", "PUBLICATIONS is empty"])
    assert error.problems == ("PORT is taken", "PUBLICATIONS is empty")
    assert str(error) == "PORT is taken; PUBLICATIONS is empty"


def test_config_error_takes_one_problem_as_a_string() -> None:
    error = ConfigError("PORT is taken")
    assert error.problems == ("PORT is taken",)
    assert str(error) == "PORT is taken"


def test_unknown_message_error_names_the_byte() -> None:
    error = UnknownMessageError(0xFF)
    assert error.tag == 0xFF
    assert r"b'\xff'" in str(error)


def test_unknown_relation_error_names_the_relation() -> None:
    error = UnknownRelationError(16385)
    assert error.relation_oid == 16385
    assert "16385" in str(error)


def test_unknown_type_error_names_type_column_and_relation() -> None:
    error = UnknownTypeError(16400, column="mood", relation="public.people")
    assert error.type_oid == 16400
    for part in ("16400", "'mood'", "public.people"):
        assert part in str(error)


def test_value_conversion_error_of_a_text_field_says_where_its_text_is() -> None:
    error = ValueConversionError("born", "date", "infinity", "date too large")
    assert (error.column, error.type_name, error.text) == ("born", "date", "infinity")
    assert str(error) == (
        "column 'born' of type date: date too large; row.text('born') has its text"
    )
    error = ValueConversionError("born", "date", "infinity", "too large", table="public.users")
    assert error.table == "public.users"
    assert str(error).startswith("table public.users, column 'born' of type date: too large; ")


def test_value_conversion_error_of_a_binary_field_does_not_promise_a_text() -> None:
    error = ValueConversionError("price", "money", None, "no binary loader for this type")
    assert error.text is None
    assert str(error) == (
        "column 'price' of type money: no binary loader for this type; "
        "it was sent in binary, row.raw('price') has its bytes"
    )


def test_publication_not_found_error_quotes_the_names_and_says_how_to_make_one() -> None:
    error = PublicationNotFoundError(["shop", 'odd"name'], "app")
    assert error.names == ("shop", 'odd"name')
    assert str(error) == (
        'publications "shop", "odd""name" not found in database \'app\'; '
        'create it with the tables to be sent: CREATE PUBLICATION "shop" FOR TABLE a, b'
    )


def test_slot_in_use_error_names_the_process_where_it_is_known() -> None:
    known, unknown = SlotInUseError("etl", 42), SlotInUseError("etl", None)
    assert (known.slot, known.pid, unknown.pid) == ("etl", 42, None)
    assert "PID 42" in str(known)
    assert "another connection" in str(unknown)
    assert "slot_in_use='wait'" in str(known)


def test_wal_level_error_says_how_to_change_it() -> None:
    error = WalLevelError("replica")
    assert error.wal_level == "replica"
    assert "ALTER SYSTEM SET wal_level = logical" in str(error)
