"""The kinds of environment variables: the type of each setting, and how its value is written.

A field of the settings is annotated with its kind, as in ``Annotated[int, Kind(…)]``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import attrs

from ._nats_readers import (
    read_cluster_name,
    read_credentials,
    read_nats_url,
    read_nkey_seed,
)
from ._readers import (
    names_reader,
    read_claim_validators,
    read_database_tls,
    read_dead_letters,
    read_flag,
    read_header_name,
    read_headers,
    read_identity_kinds,
    read_jwks,
    read_networks,
    read_origins,
    read_pem_file,
    read_protection,
    read_root_certificate,
    read_signing_secrets,
    read_slot_name,
    read_text,
)
from .choices import (
    ClusterRole,
    DatabaseTls,
    EventLoop,
    IdentityKind,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    ShortSecret,
    WhenFull,
)
from .file import ConfigurationFile

__all__ = [
    "Attempts",
    "Bytes",
    "ClaimNames",
    "ClaimValidators",
    "ClusterName",
    "ClusterRoles",
    "Configuration",
    "Credentials",
    "DeadLetters",
    "Flag",
    "HeaderName",
    "Headers",
    "IdentityKinds",
    "IpFamily",
    "Jwks",
    "Kind",
    "Level",
    "ListenPort",
    "LogStyle",
    "LogAge",
    "LogBytes",
    "Loop",
    "Megabytes",
    "Milliseconds",
    "Mode",
    "Names",
    "NatsUrl",
    "Networks",
    "NkeySeed",
    "Number",
    "OptionalBytes",
    "OptionalFlag",
    "OptionalText",
    "Origins",
    "Pause",
    "PemFile",
    "Plugin",
    "Port",
    "Protection",
    "Publications",
    "QueryBytes",
    "RecordBytes",
    "Replicas",
    "RlsDeletes",
    "RootCertificate",
    "SendBuffer",
    "ShortSecrets",
    "SigningSecrets",
    "SlotName",
    "SomeMegabytes",
    "Text",
    "Tls",
    "WhenFulls",
    "Workers",
    "kind_of",
]

_Choice = TypeVar("_Choice", bound=enum.Enum)


@attrs.frozen
class Kind:
    """How the value of a variable is written.

    Attributes:
        read: returns the value of a text, or raises ValueError with the remedy.
        form: which texts are valid, for the documentation.
    """

    read: Callable[[str], Any]
    form: str


def kind_of(annotation: Any) -> Kind | None:
    """Return the kind that a field's type is annotated with."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((item for item in get_args(annotation)[1:] if isinstance(item, Kind)), None)


# int() also accepts underscores, and the digits of other scripts.
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


# The types of the fields.

Text = Annotated[str, Kind(read_text, "")]
OptionalText = Annotated[str | None, Kind(read_text, "")]
Flag = Annotated[bool, Kind(read_flag, "`true`, `false`")]
OptionalFlag = Annotated[bool | None, Kind(read_flag, "`true`, `false`")]
Protection = Annotated[bool, Kind(read_protection, "`true`, `false`; anything but `false` is true")]
Port = Annotated[int, _whole_number(1, 65535)]
ListenPort = Annotated[int, _whole_number(0, 65535)]
Number = Annotated[int, _whole_number(1)]
Attempts = Annotated[int, _whole_number(0)]
MOST_WORKERS: Final = 256
"""How many processes a server has at most that serve clients."""
Workers = Annotated[int, _whole_number(0, MOST_WORKERS)]
Milliseconds = Annotated[int, _whole_number(1, unit="ms")]
Pause = Annotated[int, _whole_number(0, unit="ms")]
# Nothing works with fewer bytes.
Bytes = Annotated[int, _whole_number(1024, unit="bytes")]
OptionalBytes = Annotated[int | None, _whole_number(1024, unit="bytes")]
# websockets does not read a longer line.
QueryBytes = Annotated[int, _whole_number(1024, 8000, unit="bytes")]
SendBuffer = Annotated[int, _whole_number(0, 1 << 30, unit="bytes")]
RecordBytes = Annotated[int, _whole_number(1, unit="bytes")]
Megabytes = Annotated[int, _whole_number(0, unit="MB (10⁶ bytes)")]
SomeMegabytes = Annotated[int, _whole_number(1, unit="MB (10⁶ bytes)")]
Mode = Annotated[ReplicationMode, _choice(ReplicationMode)]
RlsDeletes = Annotated[RlsDelete, _choice(RlsDelete)]
ShortSecrets = Annotated[ShortSecret, _choice(ShortSecret)]
Plugin = Annotated[OutputPlugin, _choice(OutputPlugin)]
IpFamily = Annotated[IpVersion, _choice(IpVersion, any_case=True)]
Tls = Annotated[
    DatabaseTls,
    Kind(
        read_database_tls,
        "`true`, `false`, `verify-ca`, `verify-full`; anything else is `true`",
    ),
]
Level = Annotated[LogLevel, _choice(LogLevel, any_case=True)]
Loop = Annotated[EventLoop, _choice(EventLoop)]
LogStyle = Annotated[LogFormat, _choice(LogFormat, any_case=True)]
Publications = Annotated[
    tuple[str, ...],
    Kind(names_reader('["supabase_realtime"]', least=1), "JSON array of names"),
]
Names = Annotated[tuple[str, ...], Kind(names_reader('["iat"]', least=0), "JSON array of names")]
ClaimNames = Annotated[
    tuple[str, ...], Kind(names_reader('["session_id"]', least=0), "JSON array of names")
]
IdentityKinds = Annotated[
    tuple[IdentityKind, ...],
    Kind(read_identity_kinds, "JSON array of `session`, `claims`, `address`"),
]
SlotName = Annotated[str | None, Kind(read_slot_name, "letters, digits, `_`; at most 63")]
Origins = Annotated[tuple[str, ...], Kind(read_origins, "JSON array of `scheme://host[:port]`")]
Networks = Annotated[
    tuple[str, ...], Kind(read_networks, "JSON array of addresses and networks (`10.0.0.0/8`)")
]
HeaderName = Annotated[str | None, Kind(read_header_name, "name of a header")]
RootCertificate = Annotated[str | None, Kind(read_root_certificate, "path, or `system`")]
ClaimValidators = Annotated[Mapping[str, Any], Kind(read_claim_validators, "JSON object")]
Jwks = Annotated[Mapping[str, Any] | None, Kind(read_jwks, "JSON Web Key Set")]
Headers = Annotated[tuple[tuple[str, str], ...], Kind(read_headers, "`name=value:name=value`")]
SigningSecrets = Annotated[tuple[str, ...], Kind(read_signing_secrets, "`whsec_` and base64")]
WhenFulls = Annotated[WhenFull, _choice(WhenFull)]
DeadLetters = Annotated[str | None, Kind(read_dead_letters, "path of a file")]
NatsUrl = Annotated[
    str | None, Kind(read_nats_url, "`nats://` or `tls://` addresses with commas between")
]
Credentials = Annotated[str | None, Kind(read_credentials, "the text of a `.creds` file")]
NkeySeed = Annotated[str | None, Kind(read_nkey_seed, "`SU` and 56 letters and digits")]
PemFile = Annotated[str | None, Kind(read_pem_file, "path of a PEM file")]
ClusterName = Annotated[
    str | None, Kind(read_cluster_name, "letters, digits, `_`, `-`; at most 100")
]
ClusterRoles = Annotated[ClusterRole, _choice(ClusterRole)]
# NATS keeps one, three or five copies.
Replicas = Annotated[int, _whole_number(1, 5)]
LogBytes = Annotated[int, _whole_number(16 * 1024 * 1024, unit="bytes")]
# The end of the log is repeated before it expires, which takes a server that leads.
# NATS counts nanoseconds, in 64 bits.
LogAge = Annotated[int, _whole_number(60_000, 9_000_000_000_000, unit="ms")]
Configuration = Annotated[ConfigurationFile, Kind(ConfigurationFile.read, "path of a JSON file")]
