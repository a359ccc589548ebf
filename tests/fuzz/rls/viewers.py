"""Viewers: the roles and claims that subscribers come with."""

from __future__ import annotations

import json
from random import Random
from typing import Final

from tests.fuzz.rls.clients import Viewer
from tests.fuzz.rls.policies import Roles

__all__ = ["make_viewers"]

EXPIRY: Final = 4_000_000_000
CLAIMS: Final = {
    "sub": ('"ann"', '"ann"', '"bob"', '"cay"', '"o\'neil"', "null", "7", None),
    "team": ("1", '"2"', "3", '"x"', "1.0", None, "[1]"),
    "teams": ("[1, 2]", "[3]", "[]", "null", None),
    "level": ("3", "3.0", "1e0", None),
    "exact": ("9007199254740993.0", "9007199254740992", "1e-400", "4", "4", "4"),
    "app": ('{"plan": "pro"}', '{"plan": null}', "{}", None),
    "aal": ('"aal1"', '"aal2"', None),
}
"""Of each claim the values in JSON; None: it is not there."""


def make_viewers(random: Random, roles: Roles) -> list[Viewer]:
    """Return viewers, all of them different."""
    found = {}
    for _ in range(24):
        role = random.choice((roles.plain, roles.plain, roles.member, *roles.names))
        parts = [f'"role": {json.dumps(role)}', f'"exp": {EXPIRY}']
        for name, values in CLAIMS.items():
            if (value := random.choice(values)) is not None:
                parts.append(f'"{name}": {value}')
        random.shuffle(parts)
        claims = f"{{{', '.join(parts)}}}"
        found[role, *sorted(parts)] = Viewer(role, claims)
    return list(found.values())
