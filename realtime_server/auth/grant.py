"""Grant: the verified token that a channel is joined with, and until when it is valid.

This module knows nothing of signatures, because the protocol's state keeps a grant for each
channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Grant"]


@attrs.frozen
class Grant:
    """The token that a channel is joined with. Its repr shows neither token nor claims."""

    claims: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """The token's verified claims; empty where the server asks for no token."""
    expires_at: int | None = None
    """When the token expires, as seconds since 1970, from the claim ``exp``; None if never."""
    token: str = attrs.field(default="", repr=False)
    """The token itself; empty where the server asks for none."""
    keys: object = attrs.field(default=None, repr=False)
    """The verifier that verified the token. Once the server has another one, because its keys have
    changed, the token is verified again."""

    @property
    def role(self) -> str | None:
        """The claim ``role``, the database role that row level security acts as."""
        role = self.claims.get("role")
        return role if isinstance(role, str) else None
