"""Settings of the shared log that cannot work together, although each value is valid by itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

import attrs

from .choices import OutputPlugin
from .cluster_settings import LOGIN_FIELDS, ClusterSettings
from .connection_settings import ConnectionSettings

__all__ = ["cluster_contradictions"]

_PACKAGES: Final = ("nats", "nkeys")

Problem = tuple[tuple[str, ...], str]
"""The fields that a problem is about, and what it says."""


def cluster_contradictions(config: ClusterSettings) -> Iterator[Problem]:
    """Yield each problem, as the fields that it is about and the message.

    Args:
        config: settings whose values are valid, each by itself.
    """
    if config.nats_url is None:
        yield from _without_nats(config)
        return
    packages = [name for name in _PACKAGES if find_spec(name) is None]
    if packages:
        yield (
            ("nats_url",),
            f"NATS_URL is set, and {' and '.join(packages)} cannot be imported; use "
            "pip install 'realtime-core[cluster]', or unset NATS_URL",
        )
    yield from _of_the_slot(config)
    yield from _of_the_login(config, config.nats_url)
    if (config.nats_tls_cert is None) != (config.nats_tls_key is None):
        here, missing = "NATS_TLS_CERT", "NATS_TLS_KEY"
        if config.nats_tls_cert is None:
            here, missing = missing, here
        yield (
            ("nats_tls_cert", "nats_tls_key"),
            f"{here} is set without {missing}; set both, or unset {here}",
        )
    if config.log_ack_delay >= config.log_max_age:
        yield (
            ("log_ack_delay", "log_max_age"),
            f"LOG_ACK_DELAY is {config.log_ack_delay}, and the log keeps a change for "
            f"{config.log_max_age} ms only; set LOG_MAX_AGE above LOG_ACK_DELAY",
        )


def _without_nats(config: ClusterSettings) -> Iterator[Problem]:
    of_others = attrs.fields_dict(ConnectionSettings)
    useless = [
        field.name
        for field in attrs.fields(ClusterSettings)
        if field.name not in of_others and getattr(config, field.name) != field.default
    ]
    if useless:
        names = ", ".join(name.upper() for name in useless)
        yield (
            ("nats_url", *useless),
            f"NATS_URL is missing, without which {names} {'has' if len(useless) == 1 else 'have'} "
            f"no effect; set NATS_URL, or unset {'it' if len(useless) == 1 else 'them'}",
        )


def _of_the_slot(config: ClusterSettings) -> Iterator[Problem]:
    if config.slot_name is None:
        yield (
            ("nats_url", "slot_name"),
            "NATS_URL is set without SLOT_NAME: whoever has the slot reads for all servers, so "
            "they need to know it; set SLOT_NAME, the same on all of them",
        )
    elif config.temporary_slot:
        yield (
            ("nats_url", "slot_name", "temporary_slot"),
            "NATS_URL and TEMPORARY_SLOT=true: a temporary slot is gone with its server, and the "
            "next one could not go on from it; unset TEMPORARY_SLOT",
        )
    if config.output_plugin is not OutputPlugin.PGOUTPUT:
        yield (
            ("nats_url", "output_plugin"),
            "NATS_URL and OUTPUT_PLUGIN=wal2json: the log has what pgoutput writes; unset "
            "OUTPUT_PLUGIN, or NATS_URL",
        )


def _of_the_login(config: ClusterSettings, url: str) -> Iterator[Problem]:
    if any("@" in urlsplit(one).netloc for one in url.split(",")):
        yield (
            ("nats_url",),
            "NATS_URL has a user or a token in it, where others could read it; set NATS_USER and "
            "NATS_PASSWORD, each of them or its file, NATS_PASSWORD_FILE",
        )
    if (config.nats_user is None) != (config.nats_password is None):
        here, missing = "NATS_USER", "NATS_PASSWORD"
        if config.nats_user is None:
            here, missing = missing, here
        yield (
            ("nats_user", "nats_password"),
            f"{here} is set without {missing}; set both, or unset {here}",
        )
    ways = {
        "NATS_USER": config.nats_user or config.nats_password,
        "NATS_CREDENTIALS": config.nats_credentials,
        "NATS_NKEY_SEED": config.nats_nkey_seed,
    }
    chosen = [name for name, secret in ways.items() if secret]
    if len(chosen) > 1:
        yield (
            LOGIN_FIELDS,
            f"{' and '.join(chosen)} are different ways to log in, and NATS takes one; unset all "
            "of them but one",
        )
