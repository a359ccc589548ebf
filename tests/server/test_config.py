"""ServerConfig: what the environment says, and what is wrong with it."""

from __future__ import annotations

import json
import os

import pytest
from psycopg.conninfo import conninfo_to_dict

from realtime_core import ConfigError
from realtime_server.config import ReplicationMode, ServerConfig

OPEN = {"SECURE_CHANNELS": "false"}


def problems(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env({**OPEN, **environ})
    return caught.value.problems


def test_the_defaults_are_those_of_a_release() -> None:
    assert ServerConfig.from_env(OPEN) == ServerConfig(
        replication_mode=ReplicationMode.STREAM,
        port=4000,  # type: ignore[arg-type]
        db_host="localhost",
        db_port=5432,  # type: ignore[arg-type]
        db_name="postgres",
        db_user="postgres",
        db_password="postgres",
        db_ssl=True,
        publications=("supabase_realtime",),
        slot_name=None,
        temporary_slot=False,
        secure_channels=False,
        db_reconnect_backoff_min=100,  # type: ignore[arg-type]
        db_reconnect_backoff_max=120_000,  # type: ignore[arg-type]
        outbox_max_bytes=8 * 1024 * 1024,  # type: ignore[arg-type]
        loopback=False,
    )


def test_dev_means_no_tls_open_channels_and_loopback() -> None:
    assert ServerConfig.from_env({}, dev=True) == ServerConfig(
        db_ssl=False, secure_channels=False, loopback=True
    )


def test_the_environment_wins_over_the_dev_defaults() -> None:
    config = ServerConfig.from_env({"DB_SSL": "true"}, dev=True)
    assert config == ServerConfig(db_ssl=True, secure_channels=False, loopback=True)


def test_every_variable_is_read() -> None:
    environ = {
        "REPLICATION_MODE": "STREAM",
        "PORT": "4567",
        "DB_HOST": "db.example",
        "DB_PORT": "6543",
        "DB_NAME": "shop",
        "DB_USER": "reader",
        "DB_PASSWORD": "s3cr'et \\",
        "DB_SSL": "false",
        "PUBLICATIONS": '["one", "zwei ÄÖ"]',
        "SLOT_NAME": "Realtime_1",
        "TEMPORARY_SLOT": "true",
        "SECURE_CHANNELS": "false",
        "DB_RECONNECT_BACKOFF_MIN": "5",
        "DB_RECONNECT_BACKOFF_MAX": "50",
        "OUTBOX_MAX_BYTES": "2048",
        "SOMETHING_ELSE": "ignored",
    }
    assert ServerConfig.from_env(environ) == ServerConfig(
        port=4567,  # type: ignore[arg-type]
        db_host="db.example",
        db_port=6543,  # type: ignore[arg-type]
        db_name="shop",
        db_user="reader",
        db_password="s3cr'et \\",
        db_ssl=False,
        publications=("one", "zwei ÄÖ"),
        slot_name="realtime_1",
        temporary_slot=True,
        secure_channels=False,
        db_reconnect_backoff_min=5,  # type: ignore[arg-type]
        db_reconnect_backoff_max=50,  # type: ignore[arg-type]
        outbox_max_bytes=2048,  # type: ignore[arg-type]
    )


def test_an_empty_variable_counts_as_unset() -> None:
    environ = {"PORT": "", "SLOT_NAME": "", "PUBLICATIONS": "", "DB_SSL": "", **OPEN}
    assert ServerConfig.from_env(environ) == ServerConfig.from_env(OPEN)


def test_loopback_is_no_variable() -> None:
    assert ServerConfig.from_env({"LOOPBACK": "true", **OPEN}).loopback is False


@pytest.mark.parametrize("text", ["true", "TRUE", "yes", "1", "0", "no", "anything"])
def test_whatever_is_not_false_is_true(text: str) -> None:
    assert ServerConfig.from_env({"DB_SSL": text, **OPEN}).db_ssl is True


@pytest.mark.parametrize("text", ["false", "False", " FALSE "])
def test_false_is_false_in_any_case(text: str) -> None:
    assert ServerConfig.from_env({"DB_SSL": text, **OPEN}).db_ssl is False


def test_the_dsn_holds_any_password_and_asks_for_tls_without_a_certificate_check() -> None:
    config = ServerConfig.from_env({"DB_PASSWORD": "it's a \\ secret", **OPEN})
    assert conninfo_to_dict(config.dsn) == {
        "host": "localhost",
        "port": "5432",
        "dbname": "postgres",
        "user": "postgres",
        "password": "it's a \\ secret",
        "sslmode": "require",
        "sslrootcert": "/nonexistent/root.crt",
        "application_name": "realtime_server",
    }


def test_without_tls_the_dsn_says_disable() -> None:
    dsn = conninfo_to_dict(ServerConfig.from_env({}, dev=True).dsn)
    assert dsn["sslmode"] == "disable"


def test_the_password_is_not_in_the_repr() -> None:
    assert "hush" not in repr(ServerConfig.from_env({"DB_PASSWORD": "hush", **OPEN}))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("REPLICATION_MODE", "stream", "REPLICATION_MODE is 'stream'; use STREAM or RLS"),
        ("PORT", "http", "PORT is 'http'; use a whole number between 0 and 65535"),
        ("PORT", "65536", "PORT is '65536'; use a whole number between 0 and 65535"),
        ("PORT", "-1", "PORT is '-1'; use a whole number between 0 and 65535"),
        ("PORT", "4_000", "PORT is '4_000'; use a whole number between 0 and 65535"),
        ("PORT", "४०००", "PORT is '४०००'; use a whole number between 0 and 65535"),
        ("DB_PORT", "1e3", "DB_PORT is '1e3'; use a whole number between 1 and 65535"),
        ("DB_PORT", "0", "DB_PORT is '0'; use a whole number between 1 and 65535"),
        (
            "DB_RECONNECT_BACKOFF_MIN",
            "0",
            "DB_RECONNECT_BACKOFF_MIN is '0'; use a whole number of at least 1",
        ),
        (
            "DB_RECONNECT_BACKOFF_MAX",
            "1.5",
            "DB_RECONNECT_BACKOFF_MAX is '1.5'; use a whole number of at least 1",
        ),
        (
            "OUTBOX_MAX_BYTES",
            "1023",
            "OUTBOX_MAX_BYTES is '1023'; use a whole number of at least 1024",
        ),
        (
            "PUBLICATIONS",
            "shop",
            "PUBLICATIONS is 'shop', not JSON; use a JSON array of names, as in "
            '["supabase_realtime"]',
        ),
        (
            "PUBLICATIONS",
            "[]",
            "PUBLICATIONS is '[]'; use a JSON array of names, as in [\"supabase_realtime\"]",
        ),
        (
            "PUBLICATIONS",
            '"shop"',
            'PUBLICATIONS is \'"shop"\'; use a JSON array of names, as in ["supabase_realtime"]',
        ),
        (
            "PUBLICATIONS",
            '["shop", 1]',
            "PUBLICATIONS is '[\"shop\", 1]', with something that is no name; use a JSON array "
            'of names, as in ["supabase_realtime"]',
        ),
        (
            "SLOT_NAME",
            "my-slot",
            "SLOT_NAME 'my-slot' is no name for a replication slot: use 1 to 63 lower-case "
            "letters, digits and underscores",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(name: str, value: str, problem: str) -> None:
    assert problems(**{name: value}) == (problem,)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_an_empty_publication_or_one_with_a_nul_is_no_name(name: str) -> None:
    (problem,) = problems(PUBLICATIONS=json.dumps([name]))
    assert "something that is no name" in problem


def test_rls_mode_is_refused_until_it_exists() -> None:
    assert problems(REPLICATION_MODE="RLS") == (
        "REPLICATION_MODE=RLS is not supported yet; use STREAM",
    )


@pytest.mark.parametrize("environ", [{}, {"SECURE_CHANNELS": "true"}])
def test_secure_channels_are_refused_until_tokens_are_checked(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env(environ)
    assert caught.value.problems == (
        "SECURE_CHANNELS=true (the default) is not supported yet: tokens are not checked; set "
        "SECURE_CHANNELS=false where every client may see every change",
    )


def test_a_temporary_slot_needs_a_name() -> None:
    assert problems(TEMPORARY_SLOT="true") == (
        "TEMPORARY_SLOT=true names no slot; set SLOT_NAME, or leave both unset for a temporary "
        "slot with a name of its own",
    )


def test_backoff_bounds_in_the_wrong_order_are_named() -> None:
    assert problems(DB_RECONNECT_BACKOFF_MIN="200", DB_RECONNECT_BACKOFF_MAX="100") == (
        "DB_RECONNECT_BACKOFF_MIN is 200, above DB_RECONNECT_BACKOFF_MAX, 100; swap them",
    )


def test_bytes_that_are_not_utf_8_are_named_among_the_other_problems() -> None:
    broken = os.fsdecode(b"caf\xe9")
    assert problems(DB_PASSWORD=broken, PORT="x") == (
        "DB_PASSWORD is not valid UTF-8; set it again in a UTF-8 terminal or file",
        "PORT is 'x'; use a whole number between 0 and 65535",
    )
    (problem,) = problems(PUBLICATIONS='["\\ud800"]')
    assert "something that is no name" in problem


def test_every_bad_value_is_reported_at_once() -> None:
    found = problems(REPLICATION_MODE="x", PORT="x", PUBLICATIONS="x", SLOT_NAME="-", DB_PORT="x")
    assert [problem.split()[0] for problem in found] == [
        "REPLICATION_MODE",
        "PORT",
        "DB_PORT",
        "PUBLICATIONS",
        "SLOT_NAME",
    ]


def test_bad_values_and_contradictions_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env({"PORT": "x"})
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "PORT",
        "SECURE_CHANNELS=true",
    ]


def test_a_bad_value_makes_no_second_problem() -> None:
    found = problems(
        SLOT_NAME="-",
        TEMPORARY_SLOT="true",
        DB_RECONNECT_BACKOFF_MIN="x",
        DB_RECONNECT_BACKOFF_MAX="5",
    )
    assert [problem.split()[0] for problem in found] == ["SLOT_NAME", "DB_RECONNECT_BACKOFF_MIN"]
