"""Grant: what a verified token lets a channel do, and until when.

It has no home in ``auth`` because the protocol's state keeps one for each channel, and
knows nothing of signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Grant"]


@attrs.frozen
class Grant:
    """In whose name a channel is joined. Neither token nor claims show in its repr."""

    claims: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """The token's, verified; empty where no token is asked for."""
    expires_at: int | None = None
    """Seconds since 1970, from the claim ``exp``; None: never."""
    token: str = attrs.field(default="", repr=False)
    keys: object = attrs.field(default=None, repr=False)
    """What verified the token: it is verified anew once the server has other keys."""

    @property
    def role(self) -> str | None:
        """The claim ``role``, the database role that row level security acts as."""
        role = self.claims.get("role")
        return role if isinstance(role, str) else None
