"""Settings that cannot work together, although each value is valid by itself."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

from ._cluster_contradictions import cluster_contradictions
from .choices import DatabaseTls, OutputPlugin, ReplicationMode, ShortSecret

if TYPE_CHECKING:
    from .settings import ServerConfig

__all__ = ["contradictions"]

_MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key as long as the hash output of HS256."""
_MOST_OF_A_NAME: Final = 63
"""PostgreSQL's ``NAMEDATALEN``, less one."""


def contradictions(config: ServerConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each problem, as the fields that it is about and the message.

    Args:
        config: settings whose values are valid, each by itself.
    """
    if config.replication_mode is ReplicationMode.RLS and not config.secure_channels:
        yield (
            ("replication_mode", "secure_channels"),
            "SECURE_CHANNELS=false with REPLICATION_MODE=RLS would show every row to "
            "everybody; set SECURE_CHANNELS=true and JWT_SECRET",
        )
    if (
        config.replication_mode is ReplicationMode.STREAM
        and config.output_plugin is not OutputPlugin.PGOUTPUT
    ):
        yield (
            ("replication_mode", "output_plugin"),
            "OUTPUT_PLUGIN=wal2json with REPLICATION_MODE=STREAM would show every table to "
            "everybody, as wal2json knows no publications; unset OUTPUT_PLUGIN, or set "
            "REPLICATION_MODE=RLS, which checks each change",
        )
    if config.private_channels and not config.secure_channels:
        yield (
            ("private_channels", "secure_channels"),
            "PRIVATE_CHANNELS=true with SECURE_CHANNELS=false: policies decide by a token's role, "
            "and there are no tokens; set SECURE_CHANNELS=true and JWT_SECRET, or unset "
            "PRIVATE_CHANNELS",
        )
    if config.private_only and not config.has_private_channels:
        yield (
            ("private_only", "private_channels", "broadcast", "replication_mode"),
            "PRIVATE_ONLY=true without private channels refuses every join; set "
            "PRIVATE_CHANNELS=true and BROADCAST=true, or unset PRIVATE_ONLY",
        )
    if config.broadcast_messages and config.replication_mode is ReplicationMode.RLS:
        yield (
            ("broadcast_messages", "replication_mode"),
            "BROADCAST_MESSAGES=true is for REPLICATION_MODE=STREAM: any role of the database may "
            "write such messages; unset it, and use BROADCAST_FROM_DATABASE, which goes by "
            "policies",
        )
    has_key = config.jwt_secret is not None or config.jwt_jwks is not None
    if config.secure_channels and not has_key and config.serves_clients:
        yield (
            ("secure_channels", "jwt_secret", "jwt_jwks"),
            "JWT_SECRET is missing: SECURE_CHANNELS=true (the default) needs it or JWT_JWKS; "
            "set SECURE_CHANNELS=false where every client may see every change",
        )
    if (
        config.secure_channels
        and config.jwt_secret is not None
        and len(config.jwt_secret.encode(errors="surrogateescape")) < _MIN_SECRET_BYTES
        and config.jwt_secret_short is ShortSecret.REFUSE
    ):
        yield (
            ("secure_channels", "jwt_secret", "jwt_secret_short"),
            f"JWT_SECRET is shorter than {_MIN_SECRET_BYTES} bytes: anybody who has a "
            "token can compute it and sign others; make one with python3 -c 'import secrets; "
            "print(secrets.token_urlsafe(32))', or set JWT_SECRET_SHORT=allow to keep it",
        )
    if config.replay_slot is not None and len(config.replay_slot) > _MOST_OF_A_NAME:
        yield (
            ("slot_name", "replay_wal_mb"),
            f"SLOT_NAME with _replay behind it is longer than {_MOST_OF_A_NAME} characters; "
            "choose a shorter name, or set REPLAY_WAL_MB=0",
        )
    if (
        config.replay_secret is not None
        and len(config.replay_secret.encode(errors="surrogateescape")) < _MIN_SECRET_BYTES
    ):
        yield (
            ("replay_secret",),
            f"REPLAY_SECRET is shorter than {_MIN_SECRET_BYTES} bytes; make one with python3 -c "
            "'import secrets; print(secrets.token_urlsafe(32))', or unset it",
        )
    if config.trusted_proxies and config.forwarded_header is None:
        yield (
            ("trusted_proxies", "forwarded_header"),
            "TRUSTED_PROXIES is set, but not in which header they name the client's address; set "
            "FORWARDED_HEADER to what they write, as X-Forwarded-For",
        )
    if config.forwarded_header is not None and not config.trusted_proxies:
        yield (
            ("forwarded_header", "trusted_proxies"),
            "FORWARDED_HEADER is set, but not whom it is believed; set TRUSTED_PROXIES to the "
            'addresses of your proxies, as ["10.0.0.0/8"]',
        )
    if config.db_ssl_root_cert is not None and not config.db_ssl.is_checked:
        yield (
            ("db_ssl_root_cert", "db_ssl"),
            "DB_SSL_ROOT_CERT is set, but nothing is checked against it; set "
            "DB_SSL=verify-full, or unset DB_SSL_ROOT_CERT",
        )
    if config.db_ssl_root_cert == "system" and config.db_ssl is DatabaseTls.VERIFY_CA:
        yield (
            ("db_ssl_root_cert", "db_ssl"),
            "DB_SSL_ROOT_CERT=system needs the host's name checked, too; set DB_SSL=verify-full",
        )
    if config.db_reconnect_backoff_min > config.db_reconnect_backoff_max:
        yield (
            ("db_reconnect_backoff_min", "db_reconnect_backoff_max"),
            f"DB_RECONNECT_BACKOFF_MIN is {config.db_reconnect_backoff_min}, above "
            f"DB_RECONNECT_BACKOFF_MAX, {config.db_reconnect_backoff_max}; swap them",
        )
    if config.webhook_backoff_min > config.webhook_backoff_max:
        yield (
            ("webhook_backoff_min", "webhook_backoff_max"),
            f"WEBHOOK_BACKOFF_MIN is {config.webhook_backoff_min}, above WEBHOOK_BACKOFF_MAX, "
            f"{config.webhook_backoff_max}; swap them",
        )
    yield from cluster_contradictions(config)
    if config.workers != 1:
        yield from _of_workers(config)
    if config.configuration_file.webhooks:
        yield from _of_webhooks(config)


def _of_workers(config: ServerConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    if not config.serves_clients:
        yield (
            ("workers", "cluster_role"),
            f"WORKERS is {config.workers}, and with CLUSTER_ROLE=reader there are no clients to "
            "spread over several processes; unset WORKERS, or CLUSTER_ROLE",
        )
    if not _spreads_connections():
        yield (
            ("workers",),
            f"WORKERS is {config.workers}, and this system does not spread connections over "
            "several processes on one port, as Linux does; set WORKERS=1, and start several "
            "servers behind a load balancer instead",
        )
    if config.output_plugin is not OutputPlugin.PGOUTPUT:
        yield (
            ("workers", "output_plugin"),
            "WORKERS and OUTPUT_PLUGIN=wal2json: workers get what pgoutput writes; set WORKERS=1, "
            "or unset OUTPUT_PLUGIN",
        )
    window = attrs.fields(type(config)).replay_window.default
    if config.replay_window in (0, window) or config.replays:
        return
    yield (
        (
            *("workers", "replay_window", "replay_wal_mb", "replay_secret"),
            *("slot_name", "temporary_slot", "output_plugin", "jwt_secret", "db_password"),
        ),
        f"WORKERS is {config.workers} and REPLAY_WINDOW is set, but a client that comes back "
        "to another worker is known there only by a permanent slot's journal; set SLOT_NAME, "
        "a secret (REPLAY_SECRET, JWT_SECRET or DB_PASSWORD) and REPLAY_WAL_MB above 0, or "
        "REPLAY_WINDOW=0, or WORKERS=1",
    )


def _spreads_connections() -> bool:
    return sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


def _of_webhooks(config: ServerConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    fields = ("configuration_file", "slot_name", "temporary_slot", "webhook_slot_name")
    if config.webhook_slot is not None and len(config.webhook_slot) > _MOST_OF_A_NAME:
        yield (
            fields,
            f"SLOT_NAME with _webhooks behind it is longer than {_MOST_OF_A_NAME} characters; set "
            "WEBHOOK_SLOT_NAME",
        )
    if config.webhook_slot is not None and config.webhook_slot == config.slot_name:
        yield (
            fields,
            "WEBHOOK_SLOT_NAME and SLOT_NAME are the same, and one slot serves one reader; set "
            "another WEBHOOK_SLOT_NAME, or unset it",
        )
