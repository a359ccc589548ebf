"""Kinds of variables: how each one's text becomes a value.

A field of the configuration is annotated with its kind, ``Annotated[int, Kind(…)]``. A
reader raises ValueError with the remedy alone; whoever calls it knows the variable's name,
and whether its value may be shown.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import attrs

from realtime_core.replication.commands import check_slot_name

from ..auth.claims import load_claims
from .file import ConfigurationFile

__all__ = [
    "Bytes",
    "ClaimValidators",
    "Configuration",
    "DatabaseTls",
    "EventLoop",
    "Flag",
    "Headers",
    "IpFamily",
    "IpVersion",
    "Jwks",
    "Kind",
    "Level",
    "ListenPort",
    "LogFormat",
    "LogLevel",
    "LogStyle",
    "Loop",
    "Megabytes",
    "Milliseconds",
    "Mode",
    "Names",
    "Number",
    "OptionalBytes",
    "Origins",
    "OutputPlugin",
    "Pause",
    "Plugin",
    "Port",
    "Protection",
    "Publications",
    "QueryBytes",
    "RecordBytes",
    "ReplicationMode",
    "RootCertificate",
    "SendBuffer",
    "RlsDelete",
    "RlsDeletes",
    "ShortSecret",
    "ShortSecrets",
    "SlotName",
    "Text",
    "Tls",
    "is_broken",
    "kind_of",
    "read_jwks",
]

_Choice = TypeVar("_Choice", bound=enum.Enum)


@attrs.frozen
class Kind:
    """How a variable is written.

    Attributes:
        read: takes the text, returns the value; raises ValueError with the remedy.
        form: what may be written, for the documentation.
    """

    read: Callable[[str], Any]
    form: str


def kind_of(annotation: Any) -> Kind | None:
    """Return the kind that a field's type is annotated with."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((item for item in get_args(annotation)[1:] if isinstance(item, Kind)), None)


def is_broken(text: str) -> bool:
    """Whether text cannot be UTF-8: the environment brings lone surrogates for other bytes."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


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


# Readers.


# int() takes more: underscores, other scripts' digits.
_WHOLE_NUMBER: Final = re.compile(r"\s*(\d{1,18})\s*", re.ASCII)


def _whole_number(least: int, most: int | None = None, unit: str = "") -> Kind:
    bounds = f"of at least {least}" if most is None else f"between {least} and {most}"

    def read(text: str) -> int:
        match = _WHOLE_NUMBER.fullmatch(text)
        number = int(match[1]) if match else least - 1
        if number < least or (most is not None and number > most):
            raise ValueError(f"use a whole number {bounds}")
        return number

    span = f"{least} or more" if most is None else f"{least} to {most}"
    return Kind(read, f"{unit}, {span}" if unit else span)


def _choice(choices: type[_Choice], *, any_case: bool = False) -> Kind:
    known = {str(one.value): one for one in choices}
    remedy = f"use {', '.join(list(known)[:-1])} or {list(known)[-1]}"
    folded = {name.lower(): one for name, one in known.items()}

    def read(text: str) -> _Choice:
        found = folded.get(text.strip().lower()) if any_case else known.get(text)
        if found is None:
            raise ValueError(remedy)
        return found

    return Kind(read, ", ".join(f"`{name}`" for name in known))


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("use text without a NUL character")
    return text


def _protection(text: str) -> bool:
    # As the original reads it: what is misspelt protects.
    return text.strip().lower() != "false"


def _database_tls(text: str) -> DatabaseTls:
    wanted = text.strip().lower()
    known = {one.value: one for one in DatabaseTls}
    # Whoever wants a check must not go without one for a misspelling.
    if "verif" in wanted and wanted not in known:
        raise ValueError("use true, false, verify-ca or verify-full")
    # As the original reads it: anything but "false" protects.
    return known.get(wanted, DatabaseTls.ON)


def _flag(text: str) -> bool:
    match text.strip().lower():
        case "true":
            return True
        case "false":
            return False
    raise ValueError("use true or false")


def _json(text: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    # The parser goes one call deeper with each bracket.
    except (ValueError, RecursionError):
        raise ValueError(remedy) from None


def _json_names(example: str, *, least: int) -> Callable[[str], tuple[str, ...]]:
    remedy = f"use a JSON array of names, as in {example}"

    def read(text: str) -> tuple[str, ...]:
        names = _json(text, remedy)
        if not isinstance(names, list) or len(names) < least:
            raise ValueError(remedy)
        for name in names:
            if not isinstance(name, str) or not name or "\0" in name or is_broken(name):
                raise ValueError(f"{name!r} in it is no name: {remedy}")
        return tuple(names)

    return read


def _validators(text: str) -> Mapping[str, Any]:
    remedy = 'use a JSON object, as in {"iss": "Issuer"}, that names no claim twice'
    try:
        value = load_claims(text)
    except (ValueError, RecursionError):
        raise ValueError(remedy) from None
    if not isinstance(value, dict):
        raise ValueError(remedy)
    return value


def _slot_name(text: str) -> str:
    try:
        return check_slot_name(text.lower())
    except ValueError:
        raise ValueError("use 1 to 63 letters, digits and underscores") from None


def _origins(text: str) -> tuple[str, ...]:
    remedy = 'use a JSON array of origins, as in ["https://app.example"]'
    origins = _json(text, remedy)
    if not isinstance(origins, list) or not origins:
        raise ValueError(remedy)
    for origin in origins:
        if not _is_origin(origin):
            raise ValueError(f"{origin!r} in it is no origin: {remedy}")
    return tuple(origin.lower() for origin in origins)


def _is_origin(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and value == f"{parts.scheme}://{parts.netloc}" != "://"
    except ValueError:
        return False


def _root_certificate(text: str) -> str:
    if text == "system":
        return text
    if not os.access(text, os.R_OK) or os.path.isdir(text):
        raise ValueError(
            "no file can be read there; name a file of PEM certificates, or use system for the "
            "operating system's"
        )
    return text


# RFC 9110, section 5.6.2, and what a field's value may hold.
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([\t\x20-\x7e\x80-\xff]*)")


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    headers = []
    for part in text.split(":"):
        match = _HEADER.fullmatch(part)
        if match is None:
            raise ValueError("use name=value, several with colons between: a=1:b=2")
        headers.append((match[1], match[2]))
    return tuple(headers)


def read_jwks(text: str) -> Mapping[str, Any]:
    """Read a JSON Web Key Set (RFC 7517, section 5), without looking into its keys.

    Raises:
        ValueError: with the remedy.
    """
    remedy = 'use a JSON Web Key Set, as in {"keys": [{"kty": "RSA", …}]}'
    value = _json(text, remedy)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError(remedy)
    if not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        raise ValueError(f"each of its keys needs a kty: {remedy}")
    return dict(value)


# Kinds, by the types that fields have.

Text = Annotated[str, Kind(_text, "")]
OptionalText = Annotated[str | None, Kind(_text, "")]
Flag = Annotated[bool, Kind(_flag, "`true`, `false`")]
Protection = Annotated[bool, Kind(_protection, "`true`, `false`; anything but `false` is true")]
Port = Annotated[int, _whole_number(1, 65535)]
ListenPort = Annotated[int, _whole_number(0, 65535)]
Number = Annotated[int, _whole_number(1)]
Milliseconds = Annotated[int, _whole_number(1, unit="ms")]
Pause = Annotated[int, _whole_number(0, unit="ms")]
# Nothing can work with less.
Bytes = Annotated[int, _whole_number(1024, unit="bytes")]
OptionalBytes = Annotated[int | None, _whole_number(1024, unit="bytes")]
# A longer line is more than websockets reads.
QueryBytes = Annotated[int, _whole_number(1024, 8000, unit="bytes")]
SendBuffer = Annotated[int, _whole_number(0, 1 << 30, unit="bytes")]
RecordBytes = Annotated[int, _whole_number(1, unit="bytes")]
Megabytes = Annotated[int, _whole_number(0, unit="MB (10⁶ bytes)")]
Mode = Annotated[ReplicationMode, _choice(ReplicationMode)]
RlsDeletes = Annotated[RlsDelete, _choice(RlsDelete)]
ShortSecrets = Annotated[ShortSecret, _choice(ShortSecret)]
Plugin = Annotated[OutputPlugin, _choice(OutputPlugin)]
IpFamily = Annotated[IpVersion, _choice(IpVersion, any_case=True)]
Tls = Annotated[
    DatabaseTls,
    Kind(
        _database_tls,
        "`true`, `false`, `verify-ca`, `verify-full`; anything else is `true`",
    ),
]
Level = Annotated[LogLevel, _choice(LogLevel, any_case=True)]
Loop = Annotated[EventLoop, _choice(EventLoop)]
LogStyle = Annotated[LogFormat, _choice(LogFormat, any_case=True)]
Publications = Annotated[
    tuple[str, ...],
    Kind(_json_names('["supabase_realtime"]', least=1), "JSON array of names"),
]
Names = Annotated[tuple[str, ...], Kind(_json_names('["iat"]', least=0), "JSON array of names")]
SlotName = Annotated[str | None, Kind(_slot_name, "letters, digits, `_`; at most 63")]
Origins = Annotated[tuple[str, ...], Kind(_origins, "JSON array of `scheme://host[:port]`")]
RootCertificate = Annotated[str | None, Kind(_root_certificate, "path, or `system`")]
ClaimValidators = Annotated[Mapping[str, Any], Kind(_validators, "JSON object")]
Jwks = Annotated[Mapping[str, Any] | None, Kind(read_jwks, "JSON Web Key Set")]
Headers = Annotated[tuple[tuple[str, str], ...], Kind(_headers, "`name=value:name=value`")]
Configuration = Annotated[ConfigurationFile, Kind(ConfigurationFile.read, "path of a JSON file")]
