"""A random world: tables with policies and privileges, in a schema of its own.

It is made as SQL from a :class:`random.Random`, and what the oracle needs to know of it is kept
beside. Everybody may use the schema; whatever else somebody may, PostgreSQL is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

import attrs

from tests.fuzz.rls.filters import KINDS, name_of, quoted
from tests.fuzz.rls.policies import SUBS, Roles, policies

__all__ = ["PREPARE", "Column", "Table", "World", "make_world", "publishing", "row_filter"]

PREPARE: Final = """
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN positive AS int4 CHECK (value > -100);
    CREATE TABLE fence (n int8 PRIMARY KEY);
    GRANT SELECT ON fence TO PUBLIC;
    CREATE PUBLICATION leaves FOR TABLE fence;
    CREATE PUBLICATION roots WITH (publish_via_partition_root = true);
    -- What no server asks for that knows what it does.
    CREATE PUBLICATION everything FOR ALL TABLES;
    CREATE SCHEMA h;
    GRANT USAGE ON SCHEMA h TO PUBLIC;
    CREATE SEQUENCE h.n;
    CREATE FUNCTION h.sub() RETURNS text LANGUAGE sql STABLE AS $$
        SELECT current_setting('request.jwt.claims', true)::jsonb ->> 'sub' $$;
    CREATE FUNCTION h.sub_as_plpgsql() RETURNS text LANGUAGE plpgsql STABLE AS $$
        BEGIN RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; END $$;
    -- It is none: PostgreSQL takes its author's word, and may compute it when it makes a plan.
    CREATE FUNCTION h.sub_as_immutable() RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT current_setting('request.jwt.claims', true)::jsonb ->> 'sub' $$;
    CREATE FUNCTION h.raises_at(level int, bad int) RETURNS bool LANGUAGE plpgsql AS $$
        BEGIN
            IF level = bad THEN RAISE 'level % is bad', level; END IF;
            RETURN level % 2 = 0;
        END $$;
    -- What one viewer leaves behind in its transaction would hide every row from the next.
    CREATE FUNCTION h.is_first() RETURNS bool LANGUAGE plpgsql AS $$
        DECLARE mine text := coalesce(h.sub(), 'nobody');
        BEGIN
            IF coalesce(current_setting('h.seen', true), '') NOT IN ('', mine) THEN
                RETURN false;
            END IF;
            PERFORM set_config('h.seen', mine, true);
            RETURN true;
        END $$;
"""
"""Once a database."""


@attrs.define
class Column:
    name: str
    kind: str

    @property
    def sql(self) -> str:
        return name_of(self.name)


@attrs.define
class Table:
    """A table whose changes come under its name."""

    schema: str
    name: str
    columns: list[Column]
    key: tuple[str, ...]
    """Of what is told apart by it; the primary key, unless ``is_keyless``."""
    written: str
    """Where its rows are written, in SQL: a partition's are, through its table."""
    is_keyless: bool = False
    identity: tuple[str, ...] | None = None
    """The replica identity's columns; None: FULL."""
    published: tuple[str, ...] | None = None
    """The publication's column list, if it has one."""
    generated: tuple[str, ...] = ()
    """Generated columns, which only wal2json writes."""
    unpublished: tuple[str, ...] = ()
    """Those among them that it does not."""
    row_filter: str | None = None
    """The publication's row filter, if it has one, as SQL about a row."""
    partitions: tuple[str, ...] = ()
    parent: str | None = None
    """The partitioned table that is published in its place, in SQL."""
    may_change: bool = True
    """Whether columns may be added."""

    @property
    def sql(self) -> str:
        return f"{self.schema}.{name_of(self.name)}"

    @property
    def log(self) -> str:
        return f"h.{name_of(f'{self.schema}_{self.name}')}"

    @property
    def stored(self) -> tuple[str, ...]:
        """The tables in SQL that have its rows."""
        return self.partitions or (self.sql,)

    def kind_of(self, name: str) -> str:
        return next(column.kind for column in self.columns if column.name == name)

    def key_sql(self, row: str) -> str:
        """Return SQL that tells a row of the table from others."""
        return f"jsonb_build_array({', '.join(f'{row}.{name_of(c)}' for c in self.key)})::text"


@attrs.define
class World:
    schema: str
    plugin: str
    """The output plugin that makes its changes."""
    full: float
    """The share of tables whose replica identity is FULL."""
    tables: list[Table]
    """First the one that others' policies look into."""
    statements: list[str]
    """That make it."""


def make_world(
    random: Random, schema: str, roles: Roles, plugin: str, *, full: float = 0.3
) -> World:
    """Return a random world."""
    statements = [f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC"]
    members = Table(
        schema,
        "members",
        [
            Column(name, kind)
            for name, kind in zip(("id", "who", "team", "level"), _MEMBERS, strict=True)
        ],
        ("id",),
        f"{schema}.members",
        identity=("id",),
    )
    statements += [
        f"CREATE TABLE {schema}.members (id int8 PRIMARY KEY, who text, team int4, level int4)",
        f"CREATE FUNCTION h.{schema}_sees(text, int4) RETURNS bool LANGUAGE sql STABLE "
        f"SECURITY DEFINER AS 'SELECT $1 IS NULL OR EXISTS (SELECT FROM {schema}.members m "
        "WHERE m.who = h.sub() AND m.team = $2)'",
        *_published(members),
        *_grants(random, members, roles, wide=0.9),
    ]
    if random.random() < 0.4:
        statements.append(f"ALTER TABLE {schema}.members ENABLE ROW LEVEL SECURITY")
        statements.append(
            f"CREATE POLICY mine ON {schema}.members "
            f"USING (who = {random.choice(SUBS)} OR team = 1)"
        )
    world = World(schema, plugin, full, [members], statements)
    for number in range(random.randint(2, 3)):
        _add_table(random, world, f"t{number}" if random.random() < 0.8 else f"T {number}", roles)
    return world


_MEMBERS: Final = ("int8", "text", "int4", "int4")
_NAMES: Final = ("Big Col", "a,b", "ä", "order", "x", "y_z", 'q"q', "eq", "old")
_KEYS: Final = ("int8", "int4", "text", "uuid", "date", "numeric", "timestamptz")


def _add_table(random: Random, world: World, name: str, roles: Roles) -> None:
    schema = world.schema
    extra = random.sample(sorted(KINDS), random.randint(2, 5))
    names = random.sample(_NAMES, len(extra))
    columns = [
        Column("owner", "text"),
        Column("team", "int4"),
        Column("level", "int4"),
        Column("flag", "bool"),
        Column("big", "text"),
        *(Column(one, kind) for one, kind in zip(names, extra, strict=True)),
    ]
    kind = random.random()
    key = [Column("id", random.choice(_KEYS))]
    if random.random() < 0.3:
        key.append(Column("no", random.choice(("int4", "text"))))
    is_partitioned = kind < 0.2
    if is_partitioned:
        key = [Column("id", "int8"), Column("part", "text")]
    columns += key
    random.shuffle(columns)
    table = Table(
        schema, name, columns, tuple(one.name for one in key), f"{schema}.{name_of(name)}"
    )
    table.is_keyless = not is_partitioned and kind > 0.93
    described = [f"{one.sql} {one.kind}" for one in columns]
    if not is_partitioned and random.random() < 0.3:
        described.insert(random.randrange(len(described)), "dropped int4 DEFAULT 7")
    if not table.is_keyless:
        described.append(f"PRIMARY KEY ({', '.join(map(name_of, table.key))})")
    how = f" PARTITION BY LIST ({name_of('part')})" if is_partitioned else ""
    world.statements.append(f"CREATE TABLE {table.sql} ({', '.join(described)}){how}")
    if any(one.startswith("dropped") for one in described):
        world.statements.append(f"ALTER TABLE {table.sql} DROP COLUMN dropped")
    tables = [table]
    if is_partitioned:
        table.may_change = False
        tables = _partition(random, world, table)
        if world.plugin == "wal2json" and random.random() < 0.6:
            # It writes partitions' names, and the publication of the table above counts for them.
            publication = random.choice(("roots", "leaves"))
            world.statements.append(f"ALTER PUBLICATION {publication} ADD TABLE {table.sql}")
            for one in tables:
                one.parent = table.sql
    for one in tables:
        _identify(random, world, one)
        world.statements += [
            *(f"ALTER TABLE {where} ALTER big SET STORAGE EXTERNAL" for where in one.stored),
            *_published(one),
            *_grants(random, one, roles),
        ]
    # A table above partitions has policies of its own, which count for nothing but itself.
    has_rls = random.random() < 0.88
    for where in dict.fromkeys((table.sql, *(part for one in tables for part in one.stored))):
        if has_rls:
            world.statements.append(f"ALTER TABLE {where} ENABLE ROW LEVEL SECURITY")
            if random.random() < 0.4:
                world.statements.append(f"ALTER TABLE {where} FORCE ROW LEVEL SECURITY")
        if random.random() < 0.15:
            world.statements.append(f"ALTER TABLE {where} OWNER TO {name_of(roles.owner)}")
        # Which of them raise is told apart only where PostgreSQL looks at the key first.
        raises = table.kind_of(table.key[0]) != "numeric"
        world.statements += policies(random, world.schema, where, roles, raises=raises)
    world.tables += tables


def _partition(random: Random, world: World, table: Table) -> list[Table]:
    """Make partitions; return what changes come under the name of."""
    parts = []
    for value in ("a", "b", None):
        part = f"{table.name}_{value or 'rest'}"
        values = "DEFAULT" if value is None else f"FOR VALUES IN ({quoted(value)})"
        parts.append(attrs.evolve(table, name=part, columns=list(table.columns)))
        world.statements.append(f"CREATE TABLE {parts[-1].sql} PARTITION OF {table.sql} {values}")
    if world.plugin == "wal2json" or random.random() < 0.5:
        return parts
    table.partitions = tuple(part.sql for part in parts)
    return [table]


def _identify(random: Random, world: World, table: Table) -> None:
    """Choose the replica identity and the columns that are published."""
    kind = random.random()
    _choose_identity(random, world, table, kind)
    if world.plugin == "pgoutput" and random.random() < 0.3:
        table.row_filter = row_filter(random, table)


def row_filter(random: Random, table: Table) -> str | None:
    """Return a row filter for a table, of columns that its replica identity has."""
    if table.identity is None:
        return random.choice(
            ("team < 3", "level IS NULL OR level % 2 = 0", "flag IS NOT FALSE", "owner <> 'bob'")
        )
    tests = []
    for name in table.identity:
        test = _ROW_FILTERS.get(table.kind_of(name))
        if test is not None:
            tests.append(test.format(name_of(name)))
    return random.choice(tests) if tests else None


_ROW_FILTERS: Final = {
    "int4": "{} % 3 <> 0",
    "int8": "{} % 3 <> 0",
    "numeric": "{} % 2 < 1",
    "text": "length({}) % 2 = 0",
    "date": "{} > date '2026-01-20'",
    "uuid": "{} < '00000018-2222-3333-4444-555555555555'",
}


def _choose_identity(random: Random, world: World, table: Table, kind: float) -> None:
    statements = world.statements
    if table.is_keyless or kind < world.full:
        # The stream has the partitions' old rows, and says what the table above them has.
        every = dict.fromkeys((table.sql, *table.stored))
        statements += [f"ALTER TABLE {one} REPLICA IDENTITY FULL" for one in every]
        return
    table.identity = table.key
    if kind < world.full + 0.1 and not table.partitions and table.may_change:
        columns = table.columns
        column = Column("unique_no", "int8")
        columns.append(column)
        table.identity = (column.name,)
        statements += [
            f"ALTER TABLE {table.sql} ADD unique_no int8 NOT NULL DEFAULT nextval('h.n')",
            f"CREATE UNIQUE INDEX ON {table.sql} (unique_no)",
            f"ALTER TABLE {table.sql} REPLICA IDENTITY USING INDEX "
            f"{name_of(f'{table.name}_unique_no_idx')}",
        ]
    if table.parent is None and random.random() < 0.3:
        published = {*table.identity, *(c.name for c in table.columns if random.random() < 0.6)}
        if random.random() < 0.9:
            published |= set(table.key)
        table.published = tuple(c.name for c in table.columns if c.name in published)
        table.may_change = False
    elif table.may_change and random.random() < 0.2:
        table.columns.append(Column("twice", "int4"))
        table.generated = ("twice",)
        if world.plugin == "pgoutput":
            table.unpublished = table.generated
        statements.append(
            f"ALTER TABLE {table.sql} ADD twice int4 GENERATED ALWAYS AS (level * 2) STORED"
        )


def publishing(table: Table) -> str:
    """Return what adds a table to its publication."""
    publication = "roots" if table.partitions else "leaves"
    columns = "" if table.published is None else f" ({', '.join(map(name_of, table.published))})"
    where = "" if table.row_filter is None else f" WHERE ({table.row_filter})"
    return f"ALTER PUBLICATION {publication} ADD TABLE {table.sql}{columns}{where}"


def _published(table: Table) -> Iterator[str]:
    if table.parent is None:
        yield publishing(table)
    yield (
        f"CREATE TABLE {table.log} "
        f"(n int8 DEFAULT nextval('h.n'), op text, old {table.sql}, new {table.sql})"
    )
    function = f"h.{name_of(f'log_{table.schema}_{table.name}')}"
    yield f"""
        CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            -- As text, so that nothing is remembered of how the table was before a migration.
            EXECUTE format(
                'INSERT INTO {table.log} (op, old, new)
                VALUES (%L, %L::{table.sql}, %L::{table.sql})',
                TG_OP, OLD, NEW);
            RETURN NULL;
        END $$"""
    for place, stored in enumerate(table.stored):
        yield (
            f"CREATE TRIGGER log_{place} AFTER INSERT OR UPDATE OR DELETE ON {stored} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}()"
        )


def _grants(random: Random, table: Table, roles: Roles, *, wide: float = 0.5) -> Iterator[str]:
    for role in roles.names:
        kind = random.random()
        if kind < wide:
            yield f"GRANT SELECT ON {table.sql} TO {name_of(role)}"
        elif kind < wide + 0.4:
            columns = {column.name for column in table.columns if random.random() < 0.6}
            if random.random() < 0.8:
                columns |= set(table.key)
            if columns:
                names = ", ".join(map(name_of, sorted(columns)))
                yield f"GRANT SELECT ({names}) ON {table.sql} TO {name_of(role)}"
