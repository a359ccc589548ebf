"""Operators, accounts and users of NATS as signed tokens, which ``nsc`` makes otherwise.

See https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from typing import Any

import nkeys

__all__ = ["Operator"]

_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_OF_ACCOUNTS = {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_JETSTREAM = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class _Key:
    """A key with its seed.

    Args:
        prefix: what it is for, as nkeys numbers it.
    """

    def __init__(self, prefix: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        """Return a token about the subject."""
        parts = (
            {"typ": "JWT", "alg": "ed25519-nkey"},
            {
                "jti": os.urandom(8).hex(),
                "iat": 1_700_000_000,
                "iss": self.public,
                "sub": subject,
                "name": name,
                "nats": {**claims, "version": 2},
            },
        )
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Operator:
    """An operator with the account of the servers themselves, and one for applications.

    Args:
        jetstream: whether the applications' account may have streams.
    """

    def __init__(self, *, jetstream: bool = True) -> None:
        key, system = _Key(nkeys.PREFIX_BYTE_OPERATOR), _Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = _Key(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {**_UNLIMITED, **_OF_ACCOUNTS}
        tokens = {
            one.public: key.sign(one.public, name, {"type": "account", "limits": more})
            for one, name, more in (
                (system, "SYS", limits),
                (self._account, "apps", {**limits, **(_JETSTREAM if jetstream else {})}),
            )
        }
        self.configuration = "\n".join(
            (
                f"operator: {key.sign(key.public, 'op', {'type': 'operator'})}",
                f"system_account: {system.public}",
                "resolver: MEMORY",
                f"resolver_preload: {json.dumps(tokens)}",
            )
        )
        """What a server's configuration has of it."""

    def credentials(
        self, publish: Sequence[str] = (">",), subscribe: Sequence[str] = (">",)
    ) -> str:
        """Return what is in the ``.creds`` file of a user of the applications' account."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        rights = {"pub": {"allow": list(publish)}, "sub": {"allow": list(subscribe)}}
        token = self._account.sign(user.public, "me", {"type": "user", **_UNLIMITED, **rights})
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
