"""ConnectionSettings: the environment variables for the database, and for clients' access.

What changes are read, from which database, where the server listens, and which tokens it accepts.
"""

# ruff: noqa: RUF009 (variable() makes attrs fields)

from __future__ import annotations

import attrs

from . import _kinds as kinds
from ._environment import variable
from .choices import (
    DatabaseTls,
    IpVersion,
    OutputPlugin,
    ReplicationMode,
    ShortSecret,
)
from .file import ConfigurationFile

__all__ = ["ConnectionSettings"]


@attrs.frozen
class ConnectionSettings:
    """The settings of what the server connects to, and of who may connect to it."""

    # Changes

    replication_mode: kinds.Mode = variable(
        ReplicationMode.STREAM,
        "`STREAM`: everybody who may join a topic gets its changes; `RLS`: row level security "
        "decides who gets each",
    )
    output_plugin: kinds.Plugin = variable(
        OutputPlugin.PGOUTPUT,
        "what makes the changes; `wal2json` goes on with [a slot of that plugin]"
        "(../topics/rls.md#wal2json), in RLS mode only",
    )
    publications: kinds.Publications = variable(
        ("supabase_realtime",), "the publications whose tables' changes are sent; they must exist"
    )
    slot_name: kinds.SlotName = variable(
        None, "the slot's name, in lower case; unset: a temporary slot with a name of its own"
    )
    temporary_slot: kinds.Flag = variable(
        False,
        "make the slot `SLOT_NAME` a temporary one, which PostgreSQL drops with the connection; "
        "without `SLOT_NAME` the slot always is",
    )
    configuration_file: kinds.Configuration = variable(
        ConfigurationFile(),
        "a file that says which topics get which events; unset: all topics get all events",
    )
    max_replication_lag_mb: kinds.Megabytes = variable(
        0,
        "how much WAL the slot may hold back; beyond that the slot is dropped and made anew, and "
        "clients are told of the gap; 0: any amount",
    )

    # The database

    db_host: kinds.Text = variable(
        "localhost", "the database's host: a name, an address, or a socket's directory"
    )
    db_port: kinds.Port = variable(5432, "the database's port")
    db_name: kinds.Text = variable("postgres", "the database's name")
    db_user: kinds.Text = variable(
        "postgres",
        "the server's role, which needs the attribute `REPLICATION`; in RLS mode "
        "[a role of its own](../howto/rls.md#prepare-the-database), which is no superuser",
    )
    db_password: kinds.Text = variable("postgres", "the role's password", secret=True)
    db_ssl: kinds.Tls = variable(
        DatabaseTls.ON,
        "encrypt the connection: `true` accepts any certificate, `verify-ca` one that a known "
        "authority has signed, `verify-full` one that is for the host in `DB_HOST` besides",
        dev=DatabaseTls.OFF,
    )
    db_ssl_root_cert: kinds.RootCertificate = variable(
        None,
        "the certificates of the authorities that `verify-ca` and `verify-full` know; unset: those "
        "in libpq's `~/.postgresql/root.crt`",
    )
    db_ip_version: kinds.IpFamily = variable(
        IpVersion.IPV4, "the family of the address that is connected to when `DB_HOST` is a name"
    )
    db_reconnect_backoff_min: kinds.Milliseconds = variable(
        100, "shortest pause between two attempts to connect to the database"
    )
    db_reconnect_backoff_max: kinds.Milliseconds = variable(
        120_000, "longest pause between two attempts; each is longer than the last, up to this"
    )

    # Listening

    port: kinds.ListenPort = variable(
        4000, "the port that clients connect to; 0: any free one; with `--dev` on 127.0.0.1 only"
    )
    realtime_ip_version: kinds.IpFamily = variable(
        IpVersion.IPV6,
        "the address family to listen on; `IPv6` accepts IPv4 clients as well where the system can",
    )
    allowed_origins: kinds.Origins = variable(
        (),
        "the origins of web pages whose scripts may connect; unset: all, but without tokens on a "
        "loopback address only the server's own; clients without an origin always may",
    )
    trusted_proxies: kinds.Networks = variable(
        (),
        "the networks of the [proxies](../howto/proxies.md) that say whose request they pass on; "
        "what others say is not read",
    )
    forwarded_header: kinds.HeaderName = variable(
        None,
        "the header in which they say it, as `X-Forwarded-For` or `Forwarded`; the last address in "
        "it that is none of theirs is the client's",
    )
    websocket_compression: kinds.Flag = variable(
        False, "offer permessage-deflate, which costs processor time and memory, and saves traffic"
    )

    # Tokens

    secure_channels: kinds.Protection = variable(
        True, "whether every connection and every join needs a token", dev=False
    )
    jwt_secret: kinds.OptionalText = variable(
        None, "the key of HS256, HS384 and HS512 tokens, 32 bytes or longer", secret=True
    )
    jwt_secret_short: kinds.ShortSecrets = variable(
        ShortSecret.REFUSE,
        "whether to start with a `JWT_SECRET` that is shorter than 32 bytes",
        dev=ShortSecret.ALLOW,
    )
    jwt_jwks: kinds.Jwks = variable(
        None,
        "further keys, also public ones; the file `JWT_JWKS_FILE` is read again on SIGHUP",
        secret=True,
    )
    jwt_claim_validators: kinds.ClaimValidators = variable(
        {}, "the claims that every token must have, with exactly these values"
    )
