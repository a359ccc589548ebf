"""ClusterSettings: the environment variables of several servers that share one reader.

One of them reads the database's changes and appends them to a log, a stream of NATS JetStream,
which all of them read. Without ``NATS_URL`` there is no log, and the other variables say nothing.
"""

# ruff: noqa: RUF009 (variable() makes attrs fields)

from __future__ import annotations

from typing import Final

import attrs

from . import _kinds as kinds
from ._environment import variable
from .choices import ClusterRole
from .connection_settings import ConnectionSettings

__all__ = ["LOGIN_FIELDS", "ClusterSettings"]

LOGIN_FIELDS: Final = ("nats_user", "nats_password", "nats_credentials", "nats_nkey_seed")
"""The fields that say who the server is for NATS."""


@attrs.frozen
class ClusterSettings(ConnectionSettings):
    """The settings of the log that several servers share, and of a server's part in it."""

    nats_url: kinds.NatsUrl = variable(
        None,
        "the NATS servers that keep the log, as `nats://nats-1:4222,nats://nats-2:4222`; `tls://`: "
        "encrypted, and the certificates are checked; unset: this server shares nothing",
    )
    nats_user: kinds.OptionalText = variable(
        None, "the user at NATS, which `NATS_PASSWORD` belongs to", secret=True
    )
    nats_password: kinds.OptionalText = variable(None, "the user's password", secret=True)
    nats_credentials: kinds.Credentials = variable(
        None, "instead, what a `.creds` file says: a user's JWT and seed", secret=True
    )
    nats_nkey_seed: kinds.NkeySeed = variable(
        None, "instead, the seed of a user's NKey", secret=True
    )
    nats_tls_ca: kinds.PemFile = variable(
        None,
        "the certificates of the authorities that may sign those of the NATS servers; unset: the "
        "operating system's",
    )
    nats_tls_cert: kinds.PemFile = variable(
        None, "this server's certificate, where NATS asks for one"
    )
    nats_tls_key: kinds.PemFile = variable(
        None, "the certificate's key; with any of these three the connection is encrypted"
    )
    cluster_name: kinds.ClusterName = variable(
        None,
        "what the log's stream and its subjects are called; the same on all servers; unset: "
        "`realtime_` and `SLOT_NAME`",
    )
    cluster_role: kinds.ClusterRoles = variable(
        ClusterRole.ALL,
        "`all`: serves clients, and reads the database for all servers when it is its turn; "
        "`server`: serves clients alone; `reader`: reads the database alone",
    )
    nats_replicas: kinds.Replicas = variable(
        1, "how many NATS servers keep a copy of the log; 3 where there are three or more"
    )
    log_max_bytes: kinds.LogBytes = variable(
        1024 * 1024 * 1024,
        "how much the log keeps, which NATS sets aside on its disk: what servers that lag behind "
        "and clients that come back find",
    )
    log_max_age: kinds.LogAge = variable(
        600_000,
        "how long the log keeps a change; twice `REPLAY_WINDOW` or more, so that clients "
        "[get what they missed](../topics/one-reader.md#what-clients-have-missed) from any server",
    )
    log_ack_delay: kinds.Pause = variable(
        10_000,
        "how long the slot keeps a change that the log has, for the case that NATS loses its last "
        "ones; 130000 covers a single NATS server that writes its disk every two minutes, as it "
        "does by default",
    )

    @property
    def stream_name(self) -> str:
        """Name of the log's stream, and the beginning of all subjects."""
        return self.cluster_name or f"realtime_{self.slot_name}"

    @property
    def may_lead(self) -> bool:
        """Whether this server reads the database's changes when it is its turn."""
        return self.cluster_role is not ClusterRole.SERVER

    @property
    def serves_clients(self) -> bool:
        """Whether clients may connect to this server."""
        return self.cluster_role is not ClusterRole.READER

    @property
    def wants_nats_tls(self) -> bool:
        """Whether the connection to NATS has to be encrypted."""
        wanted = (self.nats_tls_ca, self.nats_tls_cert, self.nats_tls_key)
        return any(wanted) or (self.nats_url or "").startswith("tls:")
