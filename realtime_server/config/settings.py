"""ServerConfig: every variable, with its default and its meaning.

Defaults stand here and nowhere else. A variable's name is its field's in capitals.
"""

# ruff: noqa: RUF009 (_variable makes attrs fields)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self, TypeVar

import attrs

from realtime_core.errors import ConfigError

from . import _kinds as kinds
from ._contradictions import contradictions
from ._environment import near_misses, structure
from .choices import (
    DatabaseTls,
    EventLoop,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    ShortSecret,
)
from .file import ConfigurationFile

__all__ = ["SECTIONS", "SETTING_NAMES", "ServerConfig"]

SETTING_NAMES: Final = {
    "host": "DB_HOST",
    "port": "DB_PORT",
    "dbname": "DB_NAME",
    "user": "DB_USER",
    "password": "DB_PASSWORD",
    "sslmode=disable": "DB_SSL=false",
    "sslmode=verify-ca": "DB_SSL=verify-ca",
    "sslrootcert": "DB_SSL_ROOT_CERT",
    "slot": "SLOT_NAME",
}
"""What a source's settings, libpq's parameters, and values of those are called here."""

_T = TypeVar("_T")

SECTIONS: Final[Mapping[str, str]] = {
    "replication_mode": "Changes",
    "db_host": "The database",
    "port": "Listening",
    "secure_channels": "Tokens",
    "max_connections": "Limits",
    "expose_metrics": "Operation",
    "replication_poll_interval": "RLS mode",
    "webhook_headers": "Webhooks, which are not called yet",
}
"""Titles of the documentation's tables, by the field that each begins with."""

_FAMILIES: Final = {
    "DB_SSL": "DB_SSL alone says how the database's connection is protected, as "
    "DB_SSL=verify-full, and DB_SSL_ROOT_CERT by whom",
}
"""Names whose beginning says what they are meant to do, where to overlook them is dangerous."""

_MIB: Final = 1024 * 1024


def _variable(default: _T, meaning: str, *, dev: _T | None = None, secret: bool = False) -> _T:
    """Make a field that is a variable.

    Args:
        default: a release's.
        meaning: for the documentation.
        dev: the default of ``--dev``, where it differs.
        secret: never shown; ``<NAME>_FILE`` may name a file that holds it.
    """
    metadata = {"meaning": meaning, "dev": dev, "secret": secret}
    return attrs.field(default=default, repr=not secret, metadata=metadata)


@attrs.frozen
class ServerConfig:
    """Everything the server can be told."""

    # Changes

    replication_mode: kinds.Mode = _variable(
        ReplicationMode.STREAM,
        "`STREAM`: everybody who may join a topic gets its changes; `RLS`: row level security "
        "decides who gets each",
    )
    output_plugin: kinds.Plugin = _variable(
        OutputPlugin.PGOUTPUT,
        "what makes the changes; `wal2json` goes on with [a slot of that plugin]"
        "(../topics/rls.md#wal2json), in RLS mode only",
    )
    publications: kinds.Publications = _variable(
        ("supabase_realtime",), "whose tables are listened to; they must exist"
    )
    slot_name: kinds.SlotName = _variable(
        None, "lower-cased; unset: a temporary slot with a name of its own"
    )
    temporary_slot: kinds.Flag = _variable(
        False,
        "make the named slot a temporary one, which ends with each connection; without "
        "`SLOT_NAME` it always is",
    )
    configuration_file: kinds.Configuration = _variable(
        ConfigurationFile(),
        "which topics get which events; unset: all of them",
    )
    max_replication_lag_mb: kinds.Megabytes = _variable(
        0,
        "WAL that the slot may hold back; beyond it the slot is dropped and made anew, and "
        "clients are told of the gap; 0: no bound",
    )

    # The database

    db_host: kinds.Text = _variable("localhost", "a name, an address, or a socket's directory")
    db_port: kinds.Port = _variable(5432, "")
    db_name: kinds.Text = _variable("postgres", "")
    db_user: kinds.Text = _variable(
        "postgres",
        "needs the attribute `REPLICATION`; in RLS mode "
        "[a role of its own](../howto/rls.md#prepare-the-database), which is no superuser",
    )
    db_password: kinds.Text = _variable("postgres", "", secret=True)
    db_ssl: kinds.Tls = _variable(
        DatabaseTls.ON,
        "encrypt: `true` takes any certificate, `verify-ca` one that a known authority has "
        "signed, `verify-full` such a one for the host in `DB_HOST`",
        dev=DatabaseTls.OFF,
    )
    db_ssl_root_cert: kinds.RootCertificate = _variable(
        None,
        "the authorities that `verify-ca` and `verify-full` know; unset: those in libpq's "
        "`~/.postgresql/root.crt`",
    )
    db_ip_version: kinds.IpFamily = _variable(
        IpVersion.IPV4, "which of the addresses is used when `DB_HOST` is a name"
    )
    db_reconnect_backoff_min: kinds.Milliseconds = _variable(
        100, "shortest pause between two attempts"
    )
    db_reconnect_backoff_max: kinds.Milliseconds = _variable(120_000, "longest pause")

    # Listening

    port: kinds.ListenPort = _variable(
        4000, "0: any free one; with `--dev` on 127.0.0.1 only, else on every address"
    )
    realtime_ip_version: kinds.IpFamily = _variable(
        IpVersion.IPV6, "`IPv6` takes IPv4 clients as well where the system can"
    )
    allowed_origins: kinds.Origins = _variable(
        (),
        "web pages whose scripts may connect; unset: all, but without tokens on a loopback address "
        "only the server's own; clients without an origin always may",
    )
    websocket_compression: kinds.Flag = _variable(
        False, "offer permessage-deflate: less traffic for more processor time and memory"
    )

    # Tokens

    secure_channels: kinds.Protection = _variable(
        True, "every connection and join needs a token", dev=False
    )
    jwt_secret: kinds.OptionalText = _variable(
        None, "key of HS256, HS384 and HS512 tokens, 32 bytes or longer", secret=True
    )
    jwt_secret_short: kinds.ShortSecrets = _variable(
        ShortSecret.REFUSE, "what is done with a shorter one", dev=ShortSecret.ALLOW
    )
    jwt_jwks: kinds.Jwks = _variable(
        None, "more keys, also asymmetric ones; a file is read again on SIGHUP", secret=True
    )
    jwt_claim_validators: kinds.ClaimValidators = _variable(
        {}, "claims that every token must have, with these values"
    )

    # Limits

    max_connections: kinds.Number = _variable(16384, "open sockets")
    max_channels: kinds.Number = _variable(1000, "topics that one connection may have joined")
    max_tokens: kinds.Number = _variable(
        50,
        "different tokens that one connection's channels hold, or held within the last minute; "
        "renewing needs room for the old and the new one",
    )
    max_joins_per_second: kinds.Number = _variable(1000, "of one connection")
    max_conditions: kinds.Number = _variable(
        10_000, "in the filters of all that one connection has joined"
    )
    max_total_conditions: kinds.Number = _variable(
        250_000, "in the filters of all connections; each takes 2 KB, and a look at each row"
    )
    max_regex_instructions: kinds.Number = _variable(
        50_000,
        "that RE2 has for the [regular expressions](limits.md#filters) of all that one connection "
        "has joined",
    )
    max_total_regex_instructions: kinds.Number = _variable(1_000_000, "the same of all connections")
    max_messages_per_second: kinds.Number = _variable(2000, "from one connection")
    max_frame_bytes: kinds.Bytes = _variable(_MIB, "of one message from a client")
    max_payload_bytes: kinds.Bytes = _variable(_MIB // 4, "of a message's payload")
    max_header_bytes: kinds.Bytes = _variable(64 * 1024, "of a request's line and headers")
    max_query_bytes: kinds.QueryBytes = _variable(8000, "of a request's query, tokens included")
    handshake_timeout: kinds.Milliseconds = _variable(
        10_000, "within which a client sends its request's head"
    )
    idle_timeout: kinds.Milliseconds = _variable(
        60_000, "without a message, after which a client is taken for gone"
    )
    outbox_max_bytes: kinds.Bytes = _variable(
        8 * _MIB, "what may wait for one client before it is [cut off](../topics/slow-clients.md)"
    )
    outbox_total_bytes: kinds.OptionalBytes = _variable(
        None,
        "what may wait for all clients together, before those with the most are cut off; unset: a "
        "quarter of the memory that the process may have",
    )
    outbox_max_age: kinds.Milliseconds = _variable(
        15_000, "how long any of it may wait before the client is cut off"
    )
    send_buffer_bytes: kinds.SendBuffer = _variable(
        128 * 1024,
        "what the operating system holds of one connection, on top, roughly; 0: as it likes, "
        "which may be megabytes",
    )

    # Operation

    expose_metrics: kinds.Flag = _variable(False, "serve `/metrics`", dev=True)
    inspector: kinds.Flag = _variable(
        False, "serve a page at `/` that shows changes as they come", dev=True
    )
    ready_max_lag_mb: kinds.Megabytes = _variable(
        100, "how far the stream may be behind for `/ready` to say yes; 0: no bound"
    )
    log_level: kinds.Level = _variable(LogLevel.INFO, "")
    log_format: kinds.LogStyle = _variable(LogFormat.TEXT, "a line of text, or a JSON object")
    event_loop: kinds.Loop = _variable(
        EventLoop.ASYNCIO, "`uvloop` needs the extra `fast`, and is not always the faster one"
    )
    drain_timeout: kinds.Milliseconds = _variable(
        5000, "what a stop may take until the last socket is closed"
    )

    # RLS mode

    replication_poll_interval: kinds.Pause = _variable(
        0,
        "least time between two checks of changes, unless `MAX_CHANGES` wait already; 0: none, "
        "the next check begins when the last has ended",
    )
    subscription_sync_interval: kinds.Milliseconds = _variable(
        60_000, "between two comparisons of `realtime.subscription` with the joined channels"
    )
    max_changes: kinds.Number = _variable(100, "that one check is about, at most")
    max_record_bytes: kinds.RecordBytes = _variable(
        _MIB,
        "of a change's values, in STREAM mode, too, beyond which the [long ones are left "
        "out](limits.md#large-changes); the default is what all stock clients take",
    )
    rls_strict: kinds.Flag = _variable(
        False, "deliver only rows that still are as the change says when they are checked"
    )
    rls_delete: kinds.RlsDeletes = _variable(
        RlsDelete.KEY,
        "of a DELETE where row level security is on: the primary key, to every role; or, under "
        "REPLICA IDENTITY FULL, [the whole row to those whom the policies let see "
        "it](../topics/rls.md#who-could-see-a-deleted-row)",
    )
    rls_check_timeout: kinds.Milliseconds = _variable(
        1000, "that a role's policies may take for a batch; whoever takes longer is asked apart"
    )
    rls_waiting_bytes: kinds.OptionalBytes = _variable(
        None,
        "what may wait for all whose policies take too long, before those with the most lose it "
        "and are told of a [gap](protocol.md#gaps); unset: a quarter of the memory that the "
        "process may have",
    )
    rls_ignored_claims: kinds.Names = _variable(
        (), "that no policy reads, so that tokens which differ in them share a check"
    )

    # Webhooks

    webhook_headers: kinds.Headers = _variable((), "sent with each request", secret=True)
    webhook_secret: kinds.OptionalText = _variable(
        None, "signs each request's body (HMAC-SHA-256)", secret=True
    )
    webhook_timeout: kinds.Milliseconds = _variable(5000, "of one attempt")
    webhook_max_attempts: kinds.Number = _variable(5, "for one request, with growing pauses")
    webhook_max_bytes: kinds.Bytes = _variable(
        8 * _MIB, "of one body; a larger transaction goes in numbered parts"
    )

    # No variables.

    loopback: bool = False
    """Listen on 127.0.0.1 only. Set by ``--dev``."""
    jwt_jwks_file: str | None = None
    """Where ``jwt_jwks`` was read from, when it was a file; see :func:`read_jwks`."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, dev: bool = False) -> Self:
        """Read the configuration.

        Args:
            environ: usually ``os.environ``. Unknown variables are ignored; an empty one
                counts as unset. Where a secret's ``<NAME>_FILE`` is set, the file is read.
            dev: development defaults: no TLS to the database, open channels, metrics,
                loopback.

        Raises:
            ConfigError: with every problem, each naming its variable and the remedy.
        """
        values, problems = structure(environ, cls)
        if dev:
            values = {**_dev_defaults(cls), **values}
        config = cls(**values)
        problems_of_several = [
            problem
            for fields, problem in contradictions(config)
            # What a bad value would have meant is not known.
            if problems.keys().isdisjoint(fields)
        ]
        if problems or problems_of_several:
            raise ConfigError([*problems.values(), *problems_of_several])
        return config

    @classmethod
    def near_misses(cls, environ: Mapping[str, str]) -> list[str]:
        """Return a sentence for each set variable that looks like a misspelt one."""
        return near_misses(environ, cls, _FAMILIES)

    def shortcomings(self) -> list[str]:
        """Return a sentence for each setting that has no effect yet."""
        found = []
        if self.configuration_file.webhooks:
            found.append("webhooks in CONFIGURATION_FILE are not supported yet: none is called")
        return found


def _dev_defaults(cls: type[ServerConfig]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        field.name: field.metadata["dev"]
        for field in attrs.fields(cls)
        if field.metadata.get("dev") is not None
    }
    return {**defaults, "loopback": True}
