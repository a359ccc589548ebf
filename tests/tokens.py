"""JSON Web Tokens for tests, good ones and bad ones."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Final

from joserfc.jwk import Key, OctKey
from joserfc.jws import JWSRegistry, serialize_compact

__all__ = ["SECRET", "claims_of", "forge", "make_token", "segment", "sign", "sign_text"]

SECRET: Final = "SOMETHING_SUPER_SECRET_AND_LONG_ENOUGH"
"""Of all tokens; 32 bytes are the least."""

_SIGNING: Final = JWSRegistry(
    algorithms=[name for name in JWSRegistry.algorithms if name != "none"],
    strict_check_header=False,
)


def make_token(
    claims: dict[str, Any] | None = None,
    *,
    expires_in: float | None = 3600,
    secret: str = SECRET,
    algorithm: str = "HS256",
    **header: Any,
) -> str:
    """Sign claims with a shared secret; ``expires_in`` seconds make the claim ``exp``."""
    expiry = {} if expires_in is None else {"exp": int(time.time() + expires_in)}
    key = OctKey.import_key(secret)
    return sign({**expiry, **(claims or {})}, key, alg=algorithm, **header)


def sign(claims: Any, key: Key, **header: Any) -> str:
    """Sign any JSON value with any key, under a header of ``typ`` JWT unless it says else."""
    return sign_text(json.dumps(claims), key, **header)


def sign_text(payload: str, key: Key, **header: Any) -> str:
    """Sign a payload as it is written."""
    full = {"typ": "JWT", **header}
    full = {name: value for name, value in full.items() if value is not None}
    return serialize_compact(full, payload, key, registry=_SIGNING)


def segment(value: Any) -> str:
    """Encode a JSON value, or bytes, as a part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token claims, unverified."""
    text = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return claims


def forge(token: str, *, header: Any = None, claims: Any = None, signature: Any = None) -> str:
    """Put other parts into a token, and leave the rest as it was."""
    parts = token.split(".")
    for place, value in enumerate((header, claims, signature)):
        if value is not None:
            parts[place] = segment(value)
    return ".".join(parts)
