"""Random writes: transactions of one batch, and migrations between batches.

A batch leaves no doubt about what somebody may see after each of its transactions. Either it is one
transaction, which may do anything; or it is several that touch different rows, and no row that a
policy looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Final

from tests.fuzz.rls.filters import KINDS, name_of, quoted
from tests.fuzz.rls.policies import Roles, policy
from tests.fuzz.rls.world import Column, Table, World, publishing, row_filter

__all__ = ["Writer", "migration"]

OWNERS: Final = ("ann", "ann", "bob", "cay", "o'neil", None)
_CELLS: Final = {"owner": OWNERS, "who": OWNERS, "part": ("a", "b", "c")}

Keys = dict[str, list[str]]
"""By table, conditions in SQL that each find one row."""


class Writer:
    """Makes statements for a world.

    Args:
        random: where all chance comes from.
        world: written to.
    """

    def __init__(self, random: Random, world: World) -> None:
        self._random = random
        self._world = world
        self._fresh = 0

    def batch(self, keys: Keys, size: int) -> list[list[str]]:
        """Return transactions, each a list of statements.

        Args:
            keys: of the rows that there are.
            size: roughly how many rows are to be written.
        """
        random = self._random
        if random.random() < 0.5:
            lookup, *others = self._world.tables
            tables = [*others, *others, lookup]
            statements: list[str] = []
            while size > 0:
                table = random.choice(tables)
                rows = random.randint(1, 8)
                statements += self._anything(table, keys[table.name], rows)
                size -= rows
            return [statements]
        left = {name: random.sample(each, len(each)) for name, each in keys.items()}
        transactions = []
        while size > 0:
            statements = []
            for _ in range(random.randint(1, 3)):
                table = random.choice(self._world.tables[1:])
                rows = random.randint(1, 6)
                mine = [left[table.name].pop() for _ in range(min(rows, len(left[table.name])))]
                statements.append(self._of_rows(table, mine, rows))
                size -= rows
            if random.random() < 0.1:
                statements.append("ROLLBACK")
            transactions.append(statements)
        return transactions

    def _anything(self, table: Table, keys: Sequence[str], rows: int) -> Iterator[str]:
        random = self._random
        mine = random.sample(keys, min(rows, len(keys)))
        kind = random.random()
        if kind < 0.1:
            team = random.randint(0, 4)
            yield f"UPDATE {table.written} SET level = level + 1 WHERE team = {team}"
        elif kind < 0.14:
            yield f"DELETE FROM {table.written} WHERE level > 8 AND team = {random.randint(0, 4)}"
        elif kind < 0.2:
            yield "SAVEPOINT s"
            yield self._of_rows(table, mine, rows)
            yield "ROLLBACK TO s"
        elif kind < 0.22:
            yield f"TRUNCATE {table.written}"
            yield self.insert(table, rows)
        elif kind < 0.28 and mine:
            # Somebody else's, with the same key.
            yield self._update(table, mine)
            yield self._update(table, mine)
        else:
            yield self._of_rows(table, mine, rows)

    def _of_rows(self, table: Table, mine: Sequence[str], rows: int) -> str:
        """Return a statement about these rows, or about new ones."""
        random = self._random
        kind = random.random()
        if not mine or kind < 0.42:
            return self.insert(table, rows)
        if kind < 0.75:
            return self._update(table, mine)
        if kind < 0.85:
            column = random.choice([one for one in table.columns if one.name in table.key])
            if column.name != "part":
                # The part that no two rows share.
                column = next(one for one in table.columns if one.name == table.key[0])
            change = f"{column.sql} = {self._value(table, column)}"
            return f"UPDATE {table.written} SET {change} WHERE {mine[0]}"
        return f"DELETE FROM {table.written} WHERE {' OR '.join(mine)}"

    def insert(self, table: Table, rows: int) -> str:
        columns = [one for one in table.columns if one.name not in (*table.generated, "unique_no")]
        names = ", ".join(one.sql for one in columns)
        values = ", ".join(
            f"({', '.join(self._value(table, one) for one in columns)})" for _ in range(rows)
        )
        return f"INSERT INTO {table.written} ({names}) VALUES {values}"

    def _update(self, table: Table, mine: Sequence[str]) -> str:
        random = self._random
        others = [
            one
            for one in table.columns
            if one.name not in (*table.key, *table.generated, "unique_no")
        ]
        chosen = random.sample(others, random.randint(1, min(3, len(others))))
        if random.random() < 0.5:
            chosen += [one for one in others if one.name == "owner" and one not in chosen]
        changes = [f"{one.sql} = {self._value(table, one)}" for one in chosen]
        if table.identity == ("unique_no",) and random.random() < 0.2:
            changes.append("unique_no = nextval('h.n')")
        if random.random() < 0.05:
            changes = ["level = level"]
        return f"UPDATE {table.written} SET {', '.join(changes)} WHERE {' OR '.join(mine)}"

    def _value(self, table: Table, column: Column) -> str:
        random, name = self._random, column.name
        if name in _CELLS:
            value = random.choice(_CELLS[name])
            return "NULL" if value is None else quoted(value)
        if name in table.key:
            self._fresh += 1
            return _key(random, column.kind, self._fresh)
        if name in ("team", "level"):
            return (
                random.choice(("NULL", *map(str, range(10))))
                if name == "level"
                else str(random.randint(0, 4))
            )
        if name == "big":
            if random.random() < 0.3:
                # So long that it is stored apart, and left out of the stream where it stays.
                return quoted(f"{random.getrandbits(64):x}" * 200)
            return random.choice(("NULL", "''", "'short'"))
        if random.random() < 0.15:
            return "NULL"
        return quoted(random.choice(KINDS[column.kind].values))


_KEYS: Final[dict[str, Callable[[Random, int], str]]] = {
    "int4": lambda random, n: str(n),
    "int8": lambda random, n: str(random.choice((n, 9007199254740992 + n, -n))),
    "numeric": lambda random, n: f"{n}.{random.choice(('0', '50', '125'))}",
    "text": lambda random, n: quoted(
        f"{n}{random.choice(('', ' a', ',b', chr(34), chr(92), 'ä'))}"
    ),
    "uuid": lambda random, n: quoted(f"{n:08x}-2222-3333-4444-555555555555"),
    "date": lambda random, n: f"date '2026-01-01' + {n}",
    "timestamptz": lambda random, n: f"timestamptz '2026-01-01 00:00+00' + interval '{n} hours'",
}


def _key(random: Random, kind: str, number: int) -> str:
    return _KEYS[kind](random, number)


def migration(
    random: Random, world: World, roles: Roles, *, keeps_columns: bool = False
) -> list[str]:
    """Return statements that change who may see what.

    Args:
        random: where all chance comes from.
        world: changed.
        roles: that tokens claim.
        keeps_columns: whether tables keep their columns, and what is published of them.
    """
    table = random.choice(world.tables[1:])
    role = name_of(random.choice(roles.names))
    columns = random.sample(table.columns, random.randint(1, len(table.columns)))
    names = ", ".join(one.sql for one in columns)
    raises = table.kind_of(table.key[0]) != "numeric"
    match random.randrange(9 if keeps_columns else 12):
        case 10 | 11:
            return _published_anew(random, world, table)
        case 0 | 1:
            name = random.choice(("p0", "p1", "r0"))
            return [
                f"DROP POLICY IF EXISTS {name} ON {table.sql}",
                policy(random, world.schema, table.sql, roles, name, raises=raises),
            ]
        case 2:
            return [f"DROP POLICY IF EXISTS {random.choice(('p0', 'r0'))} ON {table.sql}"]
        case 3:
            how = random.choice(("ENABLE", "DISABLE", "FORCE", "NO FORCE"))
            # All of a partitioned table at once, or nobody would know which counts.
            related = [one for one in world.tables if one.written == table.written]
            every = dict.fromkeys((table.written, *(s for one in related for s in one.stored)))
            return [f"ALTER TABLE {one} {how} ROW LEVEL SECURITY" for one in every]
        case 4:
            return [f"GRANT SELECT ({names}) ON {table.sql} TO {role}"]
        case 5:
            return [
                f"REVOKE SELECT ON {table.sql} FROM {role}",
                f"GRANT SELECT ({names}) ON {table.sql} TO {role}",
            ]
        case 6:
            return [f"REVOKE SELECT ON {table.sql} FROM {role}"]
        case 7:
            how = random.choice(("BYPASSRLS", "NOBYPASSRLS", "INHERIT", "NOINHERIT"))
            return [f"ALTER ROLE {name_of(roles.changing)} {how}"]
        case 8:
            how = random.choice(("GRANT {} TO {}", "REVOKE {} FROM {}"))
            return [how.format(name_of(roles.plain), name_of(roles.changing))]
        case _:
            if not table.may_change:
                return []
            # A domain's check would have to read the log's rows, too.
            kind = random.choice(sorted(KINDS.keys() - {"positive"}))
            column = Column(f"added_{len(table.columns)}", kind)
            table.columns.append(column)
            statements = [f"ALTER TABLE {table.sql} ADD {column.sql} {kind}"]
            if random.random() < 0.5:
                statements.append(f"GRANT SELECT ({column.sql}) ON {table.sql} TO {role}")
            return statements


def _published_anew(random: Random, world: World, table: Table) -> list[str]:
    """Return what gives a table another row filter, or none, and more columns in its list."""
    if table.parent is not None:
        return []
    publication = "roots" if table.partitions else "leaves"
    table.row_filter = None if table.row_filter is not None else row_filter(random, table)
    if table.published is not None:
        more = {one.name for one in table.columns if random.random() < 0.3}
        more |= {*table.published}
        table.published = tuple(one.name for one in table.columns if one.name in more)
    return [f"ALTER PUBLICATION {publication} DROP TABLE {table.sql}", publishing(table)]
