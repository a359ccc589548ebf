"""Viewer: the role and claims that a row is checked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs

from ..auth.claims import dump_claims
from ..auth.grant import Grant
from ..errors import RefusedError
from ..phoenix.reasons import RlsReason

__all__ = ["Viewer", "Viewers"]

_MOST: Final = 500
"""Tokens whose viewers are kept."""


# Compared by identity, so that a lookup in a dict calls no Python function; of() returns the same
# object for the same role and claims.
@attrs.frozen(eq=False)
class Viewer:
    """A role and claims. Channels that share them share each check."""

    role: str
    """The role of the database that the claim ``role`` names."""
    claims: str = attrs.field(repr=False)
    """The claims as JSON text, as policies read them from ``request.jwt.claims``."""

    @classmethod
    def of(cls, claims: Mapping[str, Any], ignored: Collection[str] = ()) -> Viewer:
        """Return the viewer of a verified token.

        Args:
            claims: the token's claims.
            ignored: the names of claims that no policy reads, which are left out.

        Raises:
            RefusedError: if the token has no role, or PostgreSQL's JSON cannot have its claims.
        """
        role = claims.get("role")
        if not isinstance(role, str) or not role or "\0" in role:
            raise RefusedError(RlsReason.NO_ROLE.told())
        kept = {name: value for name, value in claims.items() if name not in ignored}
        try:
            text = dump_claims(kept)
        except RecursionError:
            raise RefusedError(RlsReason.NESTED_TOO_DEEPLY.told()) from None
        # Only U+0000 is written so: a backslash in a string is doubled.
        if "\\u0000" in text.replace("\\\\", ""):
            raise RefusedError(RlsReason.NUL.told())
        viewer = _viewers.get((role, text))
        if viewer is None:
            viewer = _viewers[role, text] = cls(role, text)
        return viewer


_viewers: Final[WeakValueDictionary[tuple[str, str], Viewer]] = WeakValueDictionary()


class Viewers:
    """The viewers of verified tokens.

    Those of tokens that were used lately are kept, since to write the claims of one takes its time.

    Args:
        ignored: the names of claims that no policy reads.
    """

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        # By token, in the order of their last use.
        self._known: dict[str, Viewer] = {}

    def of(self, grant: Grant) -> Viewer:
        """Return the viewer of a token, as :meth:`Viewer.of` does of its claims.

        Raises:
            RefusedError: if the token has no role, or PostgreSQL's JSON cannot have its claims.
        """
        viewer = self._known.pop(grant.token, None) or Viewer.of(grant.claims, self._ignored)
        # Without a token, claims may be any.
        if grant.token:
            self._known[grant.token] = viewer
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]
        return viewer
