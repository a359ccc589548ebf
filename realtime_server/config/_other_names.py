"""Names of variables that this server does not know, and that somebody may have meant it by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["FAMILIES"]

FAMILIES: Final[Mapping[str, str]] = {
    "DB_SSL": "DB_SSL alone says how the database's connection is protected, as "
    "DB_SSL=verify-full, and DB_SSL_ROOT_CERT by whom",
    # What NATS's own programs and other servers call them.
    **dict.fromkeys(
        ("NATS_SERVERS", "NATS_ADDR", "NATS_HOST"), "NATS_URL has the addresses of the NATS servers"
    ),
    **dict.fromkeys(
        ("NATS_CREDS", "NATS_NKEY", "NATS_TOKEN"),
        "NATS_CREDENTIALS, NATS_NKEY_SEED, or NATS_USER and NATS_PASSWORD log in",
    ),
    **dict.fromkeys(
        ("NATS_CA", "NATS_CERT", "NATS_KEY"),
        "NATS_TLS_CA, NATS_TLS_CERT and NATS_TLS_KEY name the files",
    ),
}
"""Unknown variables that the server warns about, by the beginning of their names, because it would
be dangerous to overlook them, or because many write them so; with what to set instead."""
