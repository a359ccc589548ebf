"""The settings that have one of a few values, as enums."""

from __future__ import annotations

import enum

__all__ = [
    "ClusterRole",
    "DatabaseTls",
    "EventLoop",
    "IdentityKind",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "OutputPlugin",
    "ReplicationMode",
    "RlsDelete",
    "ShortSecret",
    "WhenFull",
]


class ReplicationMode(enum.Enum):
    """The rule by which clients get a change."""

    STREAM = "STREAM"
    """Everybody who may join a topic gets its changes."""
    RLS = "RLS"
    """Row level security decides, for each client and row."""


class OutputPlugin(enum.Enum):
    """The output plugin, with which PostgreSQL decodes its changes."""

    PGOUTPUT = "pgoutput"
    """PostgreSQL's own plugin."""
    WAL2JSON = "wal2json"
    """https://github.com/eulerto/wal2json."""


class IpVersion(enum.Enum):
    """An address family."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class DatabaseTls(enum.Enum):
    """How the connection to the database is protected."""

    ON = "true"
    """Encrypted; the certificate is not checked."""
    OFF = "false"
    """Not encrypted."""
    VERIFY_CA = "verify-ca"
    """Encrypted; the certificate must be signed by a known authority."""
    VERIFY_FULL = "verify-full"
    """Encrypted; the certificate must be signed by a known authority, and be for the host."""

    @property
    def sslmode(self) -> str:
        """The value of libpq's parameter ``sslmode``."""
        return {DatabaseTls.ON: "require", DatabaseTls.OFF: "disable"}.get(self, self.value)

    @property
    def is_checked(self) -> bool:
        """Whether the certificate is checked."""
        return self in (DatabaseTls.VERIFY_CA, DatabaseTls.VERIFY_FULL)


class LogLevel(enum.Enum):
    """The level of the least important lines that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class ShortSecret(enum.Enum):
    """How the server treats a JWT_SECRET that is too short to be safe."""

    REFUSE = "refuse"
    """The server does not start."""
    ALLOW = "allow"
    """The server uses the secret."""


class RlsDelete(enum.Enum):
    """The part of a deleted row that RLS mode sends where row level security is enabled."""

    KEY = "key"
    """The primary key, to every role."""
    POLICY = "policy"
    """The whole row, to the viewers that the policies let see it."""


class WhenFull(enum.Enum):
    """How new requests are treated when too many wait for their endpoint already."""

    HOLD = "hold"
    """No more changes are read for webhooks until there is room: the database keeps them."""
    DROP = "drop"
    """The requests go into the dead letters."""


class IdentityKind(enum.Enum):
    """What may say that a client that comes back is the same, the best first."""

    SESSION = "session"
    """The handshake's parameter ``session``, another one for each client object."""
    CLAIMS = "claims"
    """A claim of the join's token. All tabs and devices of a user share it."""
    ADDRESS = "address"
    """Where the client comes from. All who are behind one address share it."""


class ClusterRole(enum.Enum):
    """Which part a server takes among several that share one log of changes."""

    ALL = "all"
    """It serves clients, and reads the database for all servers when it is its turn."""
    SERVER = "server"
    """It serves clients, and never reads the database."""
    READER = "reader"
    """It reads the database when it is its turn, and serves no clients."""


class EventLoop(enum.Enum):
    """The event loop that runs the server."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class LogFormat(enum.Enum):
    """How log lines are written."""

    TEXT = "text"
    """A line of text each."""
    JSON = "json"
    """A JSON object on a line each."""
