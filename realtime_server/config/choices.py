"""The settings that are one of a few values, as enums."""

from __future__ import annotations

import enum

__all__ = [
    "DatabaseTls",
    "EventLoop",
    "IpVersion",
    "LogFormat",
    "LogLevel",
    "OutputPlugin",
    "ReplicationMode",
    "RlsDelete",
    "ShortSecret",
]


class ReplicationMode(enum.Enum):
    """How changes are read, and who may see them."""

    STREAM = "STREAM"
    """Everybody who may join a topic gets its changes."""
    RLS = "RLS"
    """Row level security decides."""


class OutputPlugin(enum.Enum):
    """What makes PostgreSQL's changes."""

    PGOUTPUT = "pgoutput"
    """PostgreSQL's own."""
    WAL2JSON = "wal2json"


class IpVersion(enum.Enum):
    """An address family."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class DatabaseTls(enum.Enum):
    """How the connection to the database is protected."""

    ON = "true"
    """Encrypted; the certificate is not checked."""
    OFF = "false"
    VERIFY_CA = "verify-ca"
    """Encrypted, with a certificate that a known authority has signed."""
    VERIFY_FULL = "verify-full"
    """The same, and the certificate is for the host that is connected to."""

    @property
    def sslmode(self) -> str:
        """What libpq calls it."""
        return {DatabaseTls.ON: "require", DatabaseTls.OFF: "disable"}.get(self, self.value)

    @property
    def is_checked(self) -> bool:
        return self in (DatabaseTls.VERIFY_CA, DatabaseTls.VERIFY_FULL)


class LogLevel(enum.Enum):
    """The least important lines that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class ShortSecret(enum.Enum):
    """What is done with a JWT_SECRET that can be guessed."""

    REFUSE = "refuse"
    ALLOW = "allow"


class RlsDelete(enum.Enum):
    """What RLS mode tells of a DELETE where row level security is on."""

    KEY = "key"
    POLICY = "policy"


class EventLoop(enum.Enum):
    """What runs the server."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


class LogFormat(enum.Enum):
    """What a log line looks like."""

    TEXT = "text"
    JSON = "json"
