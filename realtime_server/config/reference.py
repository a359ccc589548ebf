"""The environment variables as data: for errors, the reference, ``--help``, ``--print-config``."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ._environment import MASK, variable_fields
from ._kinds import kind_of
from .file import ConfigurationFile
from .settings import ServerConfig

__all__ = ["SETTING_NAMES", "Variable", "as_text", "print_config", "variables"]

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
"""The variables that errors name in place of a source's settings, and of libpq's parameters and
their values."""

_SECTIONS: Final[Mapping[str, str]] = {
    "replication_mode": "Changes",
    "db_host": "The database",
    "port": "Listening",
    "secure_channels": "Tokens",
    "nats_url": "Several servers",
    "broadcast": "Rooms",
    "max_connections": "Limits",
    "expose_metrics": "Operation",
    "replay_window": "Replay",
    "replication_poll_interval": "RLS mode",
    "webhook_slot_name": "Webhooks",
}
"""The titles of the documentation's tables, by the first field of each."""


@attrs.frozen
class Variable:
    """An environment variable of the server.

    Attributes:
        name: the variable's name.
        section: the title of the documentation's table that it is in.
        default: the default value's text; empty if there is none.
        dev: the default with ``--dev``; None if it is the same.
        form: which values are valid.
        meaning: what the variable does.
        secret: whether the value is never shown, and may be in a file that ``<NAME>_FILE``
            names.
    """

    name: str
    section: str
    default: str
    dev: str | None
    form: str
    meaning: str
    secret: bool


def variables() -> Iterator[Variable]:
    """Yield every variable, by section."""
    section = ""
    for field in variable_fields(ServerConfig):
        section = _SECTIONS.get(field.name, section)
        dev = field.metadata["dev"]
        kind = kind_of(field.type)
        assert kind is not None
        yield Variable(
            name=field.name.upper(),
            section=section,
            default=as_text(field.default),
            dev=None if dev is None else as_text(dev),
            form=kind.form,
            meaning=field.metadata["meaning"],
            secret=field.metadata["secret"],
        )


def print_config(config: ServerConfig) -> Iterator[str]:
    """Yield the settings as lines of an environment file; secrets that are set are masked."""
    for variable in variables():
        text = as_text(getattr(config, variable.name.lower()))
        yield f"{variable.name}={MASK if variable.secret and text else text}"


def as_text(value: Any) -> str:
    """Return the text of a value as it is in the environment; empty for an unset value."""
    match value:
        case None | ():
            return ""
        case bool():
            return "true" if value else "false"
        case enum.Enum():
            return str(value.value)
        case ConfigurationFile():
            return value.path or ""
        case tuple() | Mapping():
            return json.dumps(value, ensure_ascii=False, default=as_text)
        case _:
            return str(value)
