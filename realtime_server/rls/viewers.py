"""Viewer: in whose eyes a row is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs

from ..auth.claims import dump_claims
from ..errors import RefusedError
from ..phoenix.reasons import RlsReason

__all__ = ["Viewer"]


# Compared by identity, so that looking one up costs no call of Python's; of() makes equal ones
# the same.
@attrs.frozen(eq=False)
class Viewer:
    """A role and claims. Subscriptions that share them share each check."""

    role: str
    claims: str = attrs.field(repr=False)
    """As JSON text: what a policy reads from ``request.jwt.claims``."""

    @classmethod
    def of(cls, claims: Mapping[str, Any], ignored: Collection[str] = ()) -> Viewer:
        """Return the viewer of a verified token.

        Args:
            claims: the token's.
            ignored: names of claims that no policy reads, and that are left out.

        Raises:
            RefusedError: if the token claims no role, or PostgreSQL cannot take its claims.
        """
        role = claims.get("role")
        if not isinstance(role, str) or not role or "\0" in role:
            raise RefusedError(RlsReason.NO_ROLE.told())
        kept = {name: value for name, value in claims.items() if name not in ignored}
        try:
            text = dump_claims(kept)
        except RecursionError:
            raise RefusedError(RlsReason.NESTED_TOO_DEEPLY.told()) from None
        # No other character is written so: a backslash of the text's own is doubled.
        if "\\u0000" in text.replace("\\\\", ""):
            raise RefusedError(RlsReason.NUL.told())
        viewer = _viewers.get((role, text))
        if viewer is None:
            viewer = _viewers[role, text] = cls(role, text)
        return viewer


_viewers: Final[WeakValueDictionary[tuple[str, str], Viewer]] = WeakValueDictionary()
