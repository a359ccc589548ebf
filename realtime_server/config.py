"""ServerConfig: the environment's variables, checked all at once.

Defaults stand here and nowhere else. A variable's name is its field's in capitals.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NewType, Self

import attrs
import cattrs
from psycopg.conninfo import make_conninfo

from realtime_core.errors import ConfigError
from realtime_core.replication.commands import check_slot_name

__all__ = ["ReplicationMode", "ServerConfig"]


class ReplicationMode(enum.Enum):
    """How changes are read, and who may see them."""

    STREAM = "STREAM"
    """pgoutput; everybody who may join a topic gets its changes."""
    RLS = "RLS"
    """wal2json; row level security decides."""


ListenPort = NewType("ListenPort", int)
Port = NewType("Port", int)
Milliseconds = NewType("Milliseconds", int)
ByteCount = NewType("ByteCount", int)


@attrs.frozen
class ServerConfig:
    """Everything the server can be told."""

    replication_mode: ReplicationMode = ReplicationMode.STREAM
    port: ListenPort = ListenPort(4000)
    """0: any free one."""
    db_host: str = "localhost"
    db_port: Port = Port(5432)
    db_name: str = "postgres"
    db_user: str = "postgres"
    db_password: str = attrs.field(default="postgres", repr=False)
    db_ssl: bool = True
    """Encrypt, without checking the certificate."""
    publications: tuple[str, ...] = ("supabase_realtime",)
    slot_name: str | None = None
    """None: a temporary slot with a name of its own."""
    temporary_slot: bool = False
    secure_channels: bool = True
    db_reconnect_backoff_min: Milliseconds = Milliseconds(100)
    db_reconnect_backoff_max: Milliseconds = Milliseconds(120_000)
    outbox_max_bytes: ByteCount = ByteCount(8 * 1024 * 1024)
    """What may wait for one client; one that falls further behind is disconnected."""
    loopback: bool = False
    """Listen on 127.0.0.1 only. Set by ``--dev``."""

    @property
    def dsn(self) -> str:
        """The database as a libpq connection string."""
        return make_conninfo(
            host=self.db_host,
            port=self.db_port,
            dbname=self.db_name,
            user=self.db_user,
            password=self.db_password,
            sslmode="require" if self.db_ssl else "disable",
            # libpq's "require" checks certificates where it finds a root.crt in the home.
            sslrootcert="/nonexistent/root.crt" if self.db_ssl else "",
            application_name="realtime_server",
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, dev: bool = False) -> Self:
        """Read the configuration.

        Args:
            environ: usually ``os.environ``. Unknown variables are ignored; an empty one
                counts as unset.
            dev: development defaults: no TLS to the database, open channels, loopback.

        Raises:
            ConfigError: with every problem, each naming its variable and the remedy.
        """
        values: dict[str, object] = dict(_DEV_DEFAULTS) if dev else {}
        for field in attrs.fields(cls):
            text = environ.get(field.name.upper(), "")
            if text and field.name != "loopback":
                values[field.name] = text
        problems = {
            name: f"{name.upper()} is not valid UTF-8; set it again in a UTF-8 terminal or file"
            for name, value in values.items()
            if _is_broken(value)
        }
        readable = {name: value for name, value in values.items() if name not in problems}
        try:
            config = _converter.structure(readable, cls)
        except cattrs.ClassValidationError as exc:
            problems |= _problems(exc)
            readable = {name: value for name, value in values.items() if name not in problems}
            config = _converter.structure(readable, cls)
        contradictions = [
            problem
            for fields, problem in config._contradictions()
            # What a bad value would have meant is not known.
            if problems.keys().isdisjoint(fields)
        ]
        if problems or contradictions:
            raise ConfigError([*problems.values(), *contradictions])
        return config

    def _contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what cannot work although each value is a good one: the fields, the problem."""
        if self.replication_mode is ReplicationMode.RLS:
            yield (
                ("replication_mode",),
                "REPLICATION_MODE=RLS is not supported yet; use STREAM",
            )
        if self.secure_channels:
            yield (
                ("secure_channels",),
                "SECURE_CHANNELS=true (the default) is not supported yet: tokens are not checked; "
                "set SECURE_CHANNELS=false where every client may see every change",
            )
        if self.temporary_slot and self.slot_name is None:
            yield (
                ("temporary_slot", "slot_name"),
                "TEMPORARY_SLOT=true names no slot; set SLOT_NAME, or leave both unset for a "
                "temporary slot with a name of its own",
            )
        if self.db_reconnect_backoff_min > self.db_reconnect_backoff_max:
            yield (
                ("db_reconnect_backoff_min", "db_reconnect_backoff_max"),
                f"DB_RECONNECT_BACKOFF_MIN is {self.db_reconnect_backoff_min}, above "
                f"DB_RECONNECT_BACKOFF_MAX, {self.db_reconnect_backoff_max}; swap them",
            )


_DEV_DEFAULTS: Final[Mapping[str, object]] = {
    "db_ssl": "false",
    "secure_channels": "false",
    "loopback": "true",
}


# int() takes more: underscores, other scripts' digits.
_WHOLE_NUMBER: Final = re.compile(r"\s*(\d{1,18})\s*", re.ASCII)


def _integer(least: int, most: int | None = None) -> Callable[[str, Any], int]:
    bounds = f"of at least {least}" if most is None else f"between {least} and {most}"

    def structure(text: str, _: Any) -> int:
        match = _WHOLE_NUMBER.fullmatch(text)
        number = int(match[1]) if match else least - 1
        if number < least or (most is not None and number > most):
            raise ValueError(f"is {text!r}; use a whole number {bounds}")
        return number

    return structure


def _boolean(text: str, _: Any) -> bool:
    # As the original reads it: whatever is not "false" is true.
    return text.strip().lower() != "false"


def _mode(text: str, _: Any) -> ReplicationMode:
    try:
        return ReplicationMode(text)
    except ValueError:
        raise ValueError(f"is {text!r}; use STREAM or RLS") from None


def _publications(text: str | tuple[str, ...], _: Any) -> tuple[str, ...]:
    example = 'a JSON array of names, as in ["supabase_realtime"]'
    try:
        names = json.loads(text) if isinstance(text, str) else list(text)
    except ValueError:
        raise ValueError(f"is {text!r}, not JSON; use {example}") from None
    if not isinstance(names, list) or not names:
        raise ValueError(f"is {text!r}; use {example}")
    if not all(
        isinstance(name, str) and name and "\0" not in name and not _is_broken(name)
        for name in names
    ):
        raise ValueError(f"is {text!r}, with something that is no name; use {example}")
    return tuple(names)


def _slot_name(text: str, _: Any) -> str | None:
    return check_slot_name(text.lower())


def _is_broken(value: object) -> bool:
    """Whether a variable has bytes that are not UTF-8: the environment brings lone surrogates."""
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_structure_hook(ListenPort, _integer(0, 65535))
    converter.register_structure_hook(Port, _integer(1, 65535))
    converter.register_structure_hook(Milliseconds, _integer(1))
    converter.register_structure_hook(ByteCount, _integer(1024))
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(ReplicationMode, _mode)
    # Generic aliases and unions are no classes: cattrs takes a predicate for them.
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _publications)
    converter.register_structure_hook_func(lambda kind: kind == str | None, _slot_name)
    return converter


_converter: Final = _make_converter()


def _problems(group: cattrs.ClassValidationError) -> dict[str, str]:
    """Return what is wrong, by field."""
    named, _ = group.group_exceptions()
    return {note.name: f"{note.name.upper()} {exc}" for exc, note in named}
