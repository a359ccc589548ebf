"""Reading the texts of environment variables that are about NATS, as :mod:`._readers` reads others.

What is refused here would fail at the first connection, where the reason is harder to see.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

__all__ = ["read_cluster_name", "read_credentials", "read_nats_url", "read_nkey_seed"]

_SCHEMES: Final = ("nats", "tls")
_CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
# https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth
_SEED: Final = re.compile(r"SU[A-Z2-7]{56}")
_CREDENTIALS: Final = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


def read_nats_url(text: str) -> str:
    """Read the addresses of one or more servers of one NATS cluster.

    Raises:
        ValueError: if one is no address, or they differ in how they are protected; the message is
            the remedy. It repeats no address, as there may be a password in it.
    """
    urls = [url.strip() for url in text.split(",")]
    schemes = {_scheme(url) for url in urls}
    if None in schemes:
        raise ValueError(
            "use addresses of NATS servers with commas between, as in "
            "nats://nats-1:4222,nats://nats-2:4222"
        )
    if len(schemes) > 1:
        raise ValueError("use tls:// for all servers, or nats:// for all")
    return ",".join(urls)


def _scheme(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    # What an address has besides would be passed over by the client.
    if not whole or parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    return parts.scheme


def read_cluster_name(text: str) -> str:
    if not _CLUSTER_NAME.fullmatch(text):
        raise ValueError("use 1 to 100 letters, digits, underscores and hyphens")
    return text


def read_credentials(text: str) -> str:
    if not all(mark in text for mark in _CREDENTIALS):
        raise ValueError(
            "use the text of a .creds file, as nsc generate creds writes it, or name the file in "
            "NATS_CREDENTIALS_FILE"
        )
    return text


def read_nkey_seed(text: str) -> str:
    if not _SEED.fullmatch(text.strip()):
        raise ValueError("use the seed of a user, which begins with SU, as nk -gen user prints it")
    return text.strip()
