"""Random policies, for roles, with claims, and with what others' rows say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

import attrs

from tests.fuzz.rls.filters import name_of, quoted

__all__ = ["SUBS", "Roles", "policies", "policy"]

CLAIMS: Final = "current_setting('request.jwt.claims', true)::jsonb"
SUBS: Final = (f"{CLAIMS} ->> 'sub'", f"(SELECT {CLAIMS} ->> 'sub')", "h.sub()", "(SELECT h.sub())")
UNUSUAL: Final = ("h.sub_as_plpgsql()", "h.sub_as_immutable()")
"""Who asks, as policies write it."""


@attrs.frozen
class Roles:
    """The roles that tokens claim."""

    plain: str
    member: str
    """Inherits what ``plain`` may."""
    stranger: str
    """A member of ``plain`` too, but inherits nothing."""
    bypassing: str
    """Row level security does not count for it."""
    owner: str
    """May own tables."""
    changing: str
    """Whose attributes and memberships change."""

    @property
    def names(self) -> tuple[str, ...]:
        return attrs.astuple(self)


def policies(
    random: Random, schema: str, table: str, roles: Roles, *, raises: bool
) -> Iterator[str]:
    """Yield what gives a table random policies."""
    for number in range(random.choice((0, 1, 1, 1, 2, 2, 3))):
        yield policy(random, schema, table, roles, f"p{number}", raises=raises)
    for number in range(random.choice((0, 0, 1, 2))):
        yield policy(random, schema, table, roles, f"r{number}", raises=raises)


def policy(
    random: Random, schema: str, table: str, roles: Roles, name: str, *, raises: bool
) -> str:
    """Return what makes a random policy, restrictive if its name begins with r."""
    is_restrictive = name.startswith("r")
    commands = ("ALL", "SELECT") if random.random() < 0.9 else ("INSERT", "UPDATE", "DELETE")
    command = random.choice(commands)
    to = "PUBLIC"
    if random.random() < 0.4:
        to = ", ".join(map(name_of, random.sample(roles.names, random.randint(1, 3))))
    expression = random.choice(
        _mild(schema, roles) if is_restrictive else _predicates(schema, roles)
    )
    if raises and random.random() < 0.08:
        expression = random.choice(_raising())
    if random.random() < 0.2:
        other = random.choice(_mild(schema, roles))
        expression = f"({expression}) {random.choice(('AND', 'OR'))} ({other})"
    expression = expression.replace("SUB", random.choice((*SUBS, *UNUSUAL)))
    expression = expression.replace("TABLE", table.partition(".")[2])
    clause = "WITH CHECK" if command == "INSERT" else "USING"
    return (
        f"CREATE POLICY {name} ON {table} AS {'RESTRICTIVE' if is_restrictive else 'PERMISSIVE'} "
        f"FOR {command} TO {to} {clause} ({expression})"
    )


def _predicates(schema: str, roles: Roles) -> Sequence[str]:
    members = f"{schema}.members m"
    return (
        "owner = SUB",
        "owner = SUB",
        "owner IS NULL OR owner = SUB",
        "owner <> SUB",
        f"team::text = {CLAIMS} ->> 'team'",
        f"team::text = (SELECT {CLAIMS} ->> 'team')",
        f"team IN (SELECT m.team FROM {members} WHERE m.who = SUB)",
        f"EXISTS (SELECT FROM {members} WHERE m.team = TABLE.team AND m.who = SUB)",
        f"NOT EXISTS (SELECT FROM {members} WHERE m.who = TABLE.owner AND m.level > 3)",
        f"NOT EXISTS (SELECT FROM {members} WHERE m.who = SUB AND m.level > 5)",
        f"level <= (SELECT max(m.level) FROM {members} WHERE m.who = SUB)",
        f"team = ANY (ARRAY(SELECT m.team FROM {members} WHERE m.who = SUB))",
        f"{CLAIMS} @> jsonb_build_object('teams', jsonb_build_array(team))",
        f"(SELECT {CLAIMS}) -> 'app' ->> 'plan' = 'pro' AND level > 2",
        f"h.{schema}_sees(owner, team)",
        f"level::numeric = ({CLAIMS} ->> 'level')::numeric",
        f"({CLAIMS} -> 'exact')::numeric % 2 = level % 2",
        *_mild(schema, roles),
    )


def _mild(schema: str, roles: Roles) -> Sequence[str]:
    return (
        "flag IS NOT FALSE",
        "level < 8",
        "level % 3 <> 1",
        "owner LIKE 'a%' OR team < 3",
        f"current_user <> {quoted(roles.plain)}",
        f"pg_has_role(current_user, {quoted(roles.plain)}, 'USAGE') OR level > 4",
        "h.is_first()",
        f"coalesce({CLAIMS} ->> 'aal', '') = 'aal2' OR NOT flag",
        "true",
        "NULL::bool OR flag",
    )


def _raising() -> Sequence[str]:
    return (
        "h.raises_at(level, 3)",
        "h.raises_at(level, 5) OR owner = SUB",
        f"team = ({CLAIMS} ->> 'team')::int4",
        f"team = (SELECT ({CLAIMS} ->> 'team')::int4)",
        "owner = SUB AND h.raises_at(level, 7)",
    )
