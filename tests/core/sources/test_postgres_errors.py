"""PostgreSQL's errors, each with its remedy."""

import psycopg
import pytest
from psycopg import errors

from realtime_core import GapReason
from realtime_core.errors import (
    AuthenticationError,
    ConnectionLostError,
    OutputPluginError,
    OutputPluginNotAllowedError,
    PrivilegeError,
    SlotInUseError,
    SlotLostError,
    SlotUnavailableError,
    SourceError,
)
from realtime_core.sources._postgres_errors import translate
from realtime_core.sources._slot_checks import slot_lost
from realtime_core.sources.failures import connection_failed


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        (
            'FATAL:  password authentication failed for user "x"',
            AuthenticationError,
            "check user and password",
        ),
        ("fe_sendauth: no password supplied", AuthenticationError, "passfile"),
        ('FATAL:  no pg_hba.conf entry for host "::1"', AuthenticationError, "pg_hba.conf"),
        ('FATAL:  database "x" does not exist', AuthenticationError, "create it"),
        ('FATAL:  role "x" does not exist', AuthenticationError, "create it"),
        (
            "FATAL:  permission denied to start WAL sender",
            PrivilegeError,
            "ALTER ROLE … REPLICATION",
        ),
        (
            "FATAL:  number of requested standby connections exceeds max_wal_senders",
            ConnectionLostError,
            "raise max_wal_senders",
        ),
        (
            "server does not support SSL, but SSL was required",
            AuthenticationError,
            "sslmode=disable",
        ),
        ("SSL error: certificate verify failed", AuthenticationError, "sslrootcert"),
        ('root certificate file "/root.crt" does not exist', AuthenticationError, "sslrootcert"),
        (
            'server certificate for "a" does not match host name "b"',
            AuthenticationError,
            "a name that is in its certificate",
        ),
        ('FATAL:  too many connections for role "app"', ConnectionLostError, "too many"),
        ("connection refused\n\tIs the server running?", ConnectionLostError, "check that it runs"),
        ('connection is bad: invalid sslmode value: "requre"', SourceError, "correct sslmode"),
        (
            'connection is bad: invalid integer value "abc" for connection option "port"',
            SourceError,
            "correct port",
        ),
        ('connection is bad: invalid port number: "70000"', SourceError, "correct port"),
        ("bad value for connect_timeout: 'x'", SourceError, "correct connect_timeout"),
        ("could not match 2 port numbers to 1 hosts", SourceError, "correct port"),
    ],
)
def test_a_refused_connection_says_why_and_what_to_do(
    text: str, kind: type[SourceError], remedy: str
) -> None:
    error = connection_failed(psycopg.OperationalError(text))
    assert type(error) is kind
    assert remedy in str(error)
    assert "\n" not in str(error)
    # What only somebody can mend is not tried again.
    assert error.transient is (kind is ConnectionLostError)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("password authentication failed", "check DB_USER and DB_PASSWORD"),
        ("server does not support SSL", "or use DB_TLS=off"),
        ("does not match host name", "in its certificate, or sslmode=verify-ca"),
        ("certificate verify failed", "as DB_ROOT"),
        ("connection refused", "reachable at DB_HOST and port"),
        ("{user} does not exist", "({user} does not exist); create it, or choose another DB_USER"),
    ],
)
def test_what_to_change_is_named_as_the_application_does(text: str, remedy: str) -> None:
    names = {
        "user": "DB_USER",
        "password": "DB_PASSWORD",
        "sslmode=disable": "DB_TLS=off",
        "sslrootcert": "DB_ROOT",
        "host": "DB_HOST",
    }
    assert remedy in str(connection_failed(psycopg.OperationalError(text), names))


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (errors.InsufficientPrivilege("no"), PrivilegeError),
        (errors.ConfigurationLimitExceeded("all in use"), SlotUnavailableError),
        (errors.TooManyConnections("too many"), ConnectionLostError),
        (errors.DuplicateObject("exists"), SlotInUseError),
        (errors.ObjectNotInPrerequisiteState("can no longer get changes"), SlotLostError),
        (errors.UndefinedObject('publication "p" does not exist'), SlotUnavailableError),
        (errors.UndefinedFile('could not access file "wal2json"'), OutputPluginError),
        (errors.UndefinedFile('could not open file "pg_replslot/x"'), SlotUnavailableError),
        (
            errors.InsufficientPrivilege('library "x" may not be used as an output plugin'),
            OutputPluginNotAllowedError,
        ),
        (errors.AdminShutdown("terminating"), ConnectionLostError),
        (errors.CannotConnectNow("starting up"), ConnectionLostError),
        (psycopg.OperationalError("server closed the connection"), ConnectionLostError),
        (errors.SyntaxError("bad"), SourceError),
    ],
)
def test_an_error_of_the_stream_has_its_own_class(
    exception: psycopg.Error, kind: type[SourceError]
) -> None:
    assert type(translate(exception, "s")) is kind


def test_a_server_without_room_for_locks_says_which_setting_gives_more() -> None:
    text = "out of shared memory\nHINT:  You might need to increase max_locks_per_transaction."
    error = translate(errors.OutOfMemory(text), "s")
    assert str(error).endswith("raise max_locks_per_transaction, or take fewer tables")
    assert not error.transient


def test_a_slot_in_use_names_its_holder() -> None:
    error = translate(errors.ObjectInUse('replication slot "s" is active for PID 42'), "s")
    assert isinstance(error, SlotInUseError)
    assert (error.slot, error.pid) == ("s", 42)
    assert "PID 42" in str(error)


@pytest.mark.parametrize("reason", GapReason)
def test_a_gap_says_its_cause_and_what_is_left_to_say_to_go_on(reason: GapReason) -> None:
    for may_continue, may_replace, step in (
        (False, True, "set on_gap='continue'; to prevent it, "),
        (True, False, "set replace_slot=True, which drops the slot, or run SELECT "),
        (False, False, "set on_gap='continue' and replace_slot=True, which drops the slot, or "),
    ):
        error = slot_lost("etl", reason, None, may_continue=may_continue, may_replace=may_replace)
        assert error.reason is reason
        assert step in str(error)
        assert ("pg_drop_replication_slot('etl')" in str(error)) is not may_replace
