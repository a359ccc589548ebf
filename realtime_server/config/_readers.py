"""Reading the texts of environment variables as values.

A reader raises ValueError with the remedy alone. Its caller adds the variable's name, and its text
if that may be shown.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from realtime_core.replication.commands import check_slot_name

from ..auth.claims import load_claims
from .choices import DatabaseTls, IdentityKind

__all__ = [
    "is_broken",
    "names_reader",
    "read_claim_validators",
    "read_database_tls",
    "read_dead_letters",
    "read_flag",
    "read_header_name",
    "read_headers",
    "read_identity_kinds",
    "read_jwks",
    "read_networks",
    "read_origins",
    "read_pem_file",
    "read_protection",
    "read_root_certificate",
    "read_signing_secrets",
    "read_slot_name",
    "read_text",
]


def is_broken(text: str) -> bool:
    """Return whether a text was not UTF-8, which Python shows by lone surrogates."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def read_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("use text without a NUL character")
    return text


def read_protection(text: str) -> bool:
    # As Supabase's server reads it: a misspelt value protects.
    return text.strip().lower() != "false"


def read_database_tls(text: str) -> DatabaseTls:
    wanted = text.strip().lower()
    known = {one.value: one for one in DatabaseTls}
    # A misspelt value must not turn off the check of certificates that was meant.
    if "verif" in wanted and wanted not in known:
        raise ValueError("use true, false, verify-ca or verify-full")
    # As Supabase's server reads it: anything but "false" protects.
    return known.get(wanted, DatabaseTls.ON)


def read_flag(text: str) -> bool:
    match text.strip().lower():
        case "true":
            return True
        case "false":
            return False
    raise ValueError("use true or false")


def _json(text: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    # RecursionError: the parser calls itself for each bracket.
    except (ValueError, RecursionError):
        raise ValueError(remedy) from None


def names_reader(example: str, *, least: int) -> Callable[[str], tuple[str, ...]]:
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


def read_identity_kinds(text: str) -> tuple[IdentityKind, ...]:
    names = names_reader('["session", "claims"]', least=1)(text)
    known = {kind.value: kind for kind in IdentityKind}
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} in it is none of {', '.join(known)}")
    return tuple(kind for kind in IdentityKind if kind.value in names)


def read_claim_validators(text: str) -> Mapping[str, Any]:
    remedy = 'use a JSON object, as in {"iss": "Issuer"}, that names no claim twice'
    try:
        value = load_claims(text)
    except (ValueError, RecursionError):
        raise ValueError(remedy) from None
    if not isinstance(value, dict):
        raise ValueError(remedy)
    return value


def read_slot_name(text: str) -> str:
    try:
        return check_slot_name(text.lower())
    except ValueError:
        raise ValueError("use 1 to 63 letters, digits and underscores") from None


def read_origins(text: str) -> tuple[str, ...]:
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


def read_networks(text: str) -> tuple[str, ...]:
    remedy = 'use a JSON array of addresses and networks, as in ["10.0.0.0/8", "::1"]'
    networks = _json(text, remedy)
    if not isinstance(networks, list) or not networks:
        raise ValueError(remedy)
    return tuple(_network(one, remedy) for one in networks)


def _network(value: object, remedy: str) -> str:
    # ip_network() takes numbers, too.
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in it is no network: {remedy}")
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as exc:
        raise ValueError(f"{value!r} in it is no network ({exc}): {remedy}") from None


_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
"""RFC 9110, section 5.6.2."""


def read_header_name(text: str) -> str:
    if re.fullmatch(_TOKEN, text) is None:
        raise ValueError("use the name of a header, as X-Forwarded-For")
    return text


def read_root_certificate(text: str) -> str:
    if text == "system":
        return text
    if not _is_readable(text):
        raise ValueError(
            "no file can be read there; name a file of PEM certificates, or use system for the "
            "operating system's"
        )
    return text


def read_pem_file(text: str) -> str:
    if not _is_readable(text):
        raise ValueError("no file can be read there; name a PEM file that the server may read")
    return text


def _is_readable(path: str) -> bool:
    return os.access(path, os.R_OK) and not os.path.isdir(path)


# A header's name and value: RFC 9110, section 5.5.
_HEADER: Final = re.compile(rf"({_TOKEN})=([\t\x20-\x7e\x80-\xff]*)")


_OWN_HEADERS: Final = re.compile(
    "content-length|content-type|host|idempotency-key|transfer-encoding|webhook-.*|x-realtime-.*"
)


def read_headers(text: str) -> tuple[tuple[str, str], ...]:
    headers = []
    for part in text.split(":"):
        match = _HEADER.fullmatch(part)
        if match is None:
            raise ValueError("use name=value, several with colons between: a=1:b=2")
        if _OWN_HEADERS.fullmatch(match[1].lower()):
            raise ValueError(f"use another name than {match[1]}, which the server sets itself")
        headers.append((match[1], match[2]))
    return tuple(headers)


_LEAST_SECRET_BYTES: Final = 24
_MOST_SECRET_BYTES: Final = 64


def read_signing_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(text.split())
    if not secrets or not all(map(_is_signing_secret, secrets)):
        raise ValueError(
            "use whsec_ and base64 of 24 to 64 random bytes, as python3 -c 'import base64, os; "
            'print("whsec_" + base64.b64encode(os.urandom(32)).decode())\' makes one'
        )
    return secrets


def _is_signing_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    is_long_enough = _LEAST_SECRET_BYTES <= len(key) <= _MOST_SECRET_BYTES
    return text.startswith("whsec_") and is_long_enough


def read_dead_letters(text: str) -> str:
    if os.path.isdir(text) or not os.path.isdir(os.path.dirname(text) or "."):
        raise ValueError("name a file in a directory that exists")
    return text


def read_jwks(text: str) -> Mapping[str, Any]:
    """Read a JSON Web Key Set (RFC 7517, section 5), without looking into its keys.

    Raises:
        ValueError: if it is not one; the message is the remedy.
    """
    remedy = 'use a JSON Web Key Set, as in {"keys": [{"kty": "RSA", …}]}'
    value = _json(text, remedy)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError(remedy)
    if not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        raise ValueError(f"each of its keys needs a kty: {remedy}")
    return dict(value)
