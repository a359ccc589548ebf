-- Values, and what is compared with them.
--
-- What apply_rls calls for each change is PL/pgSQL even where SQL would do: it keeps its plans,
-- and a function of SQL is planned at each call.

create or replace function realtime.cast(val text, type_ regtype)
    returns jsonb
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    result jsonb;
begin
    -- format_type() with a modifier of -1 writes bpchar where regtype's own text is character,
    -- which would mean a single one.
    execute pg_catalog.format(
        'select pg_catalog.to_jsonb(%L::%s)', val, pg_catalog.format_type(type_, -1)
    ) into result;
    return result;
end
$$;

-- The name of a type's operator, as in OPERATOR(public.=). An extension's are in its type's
-- schema, which need not be in the search path; without them another type's would be taken.
create or replace function realtime.operator_of(name text, type_ regtype)
    returns text
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    base oid := type_;
    next_base oid;
    home text;
begin
    loop
        select t.typbasetype, n.nspname
        into next_base, home
        from pg_catalog.pg_type t
        left join pg_catalog.pg_operator o
            on o.oprnamespace = t.typnamespace
            and o.oprname = name
            and o.oprleft = t.oid
            and o.oprright = t.oid
        left join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
        where t.oid = base;
        exit when home is not null or coalesce(next_base, 0) = 0;
        -- A domain's are its base type's.
        base := next_base;
    end loop;
    return pg_catalog.format('operator(%I.%s)', coalesce(home, 'pg_catalog'), name);
end
$$;

create or replace function realtime.symbol_of(op realtime.equality_op)
    returns text
    language sql
    immutable
as $$
    select case op
        when 'eq' then '='
        when 'in' then '='
        when 'neq' then '<>'
        when 'lt' then '<'
        when 'lte' then '<='
        when 'gt' then '>'
        when 'gte' then '>='
    end
$$;

create or replace function realtime.check_equality_op(
    op realtime.equality_op, type_ regtype, val_1 text, val_2 text
)
    returns boolean
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    result boolean;
begin
    execute pg_catalog.format(
        case
            when op = 'in' then 'select %1$L::%2$s %3$s any (%4$L::%2$s[])'
            else 'select %1$L::%2$s %3$s %4$L::%2$s'
        end,
        val_1,
        pg_catalog.format_type(type_, -1),
        realtime.operator_of(realtime.symbol_of(op), type_),
        val_2
    ) into result;
    return result;
end
$$;

-- The text of a value that realtime.cast made JSON of.
create or replace function realtime.value_text(value jsonb, type_ regtype)
    returns text
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    kind record;
    result text;
begin
    if type_ = any (array['json', 'jsonb']::pg_catalog.regtype[]) then
        return value::text;
    end if;
    if pg_catalog.jsonb_typeof(value) not in ('array', 'object') then
        return value #>> '{}';
    end if;
    select t.typtype, t.typelem, e.typdelim
    into kind
    from pg_catalog.pg_type t
    left join pg_catalog.pg_type e on e.oid = t.typelem
    where t.oid = type_;
    if kind.typtype = 'c' then
        execute pg_catalog.format(
            'select pg_catalog.jsonb_populate_record(null::%s, $1)::text',
            pg_catalog.format_type(type_, -1)
        ) into result using value;
        return result;
    end if;
    if kind.typelem = 0 or pg_catalog.jsonb_typeof(value) <> 'array' then
        return value #>> '{}';
    end if;
    select pg_catalog.format(
        '{%s}',
        pg_catalog.string_agg(
            case
                when pg_catalog.jsonb_typeof(i.item) = 'null' then 'NULL'
                -- A further dimension, unless the elements can be arrays themselves.
                when pg_catalog.jsonb_typeof(i.item) = 'array'
                    and kind.typelem <> all (array['json', 'jsonb']::pg_catalog.regtype[])
                    then realtime.value_text(i.item, type_)
                else pg_catalog.format(
                    '"%s"',
                    pg_catalog.regexp_replace(
                        realtime.value_text(i.item, kind.typelem), '(["\\])', '\\\1', 'g'
                    )
                )
            end,
            kind.typdelim::text
            order by i.place
        )
    )
    into result
    from pg_catalog.jsonb_array_elements(value) with ordinality i (item, place);
    return result;
end
$$;

create or replace function realtime.quote_wal2json(entity regclass)
    returns text
    language sql
    stable
    set search_path = ''
as $$
    select pg_catalog.regexp_replace(n.nspname, '(.)', '\\\1', 'g')
        || '.'
        || pg_catalog.regexp_replace(c.relname, '(.)', '\\\1', 'g')
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = entity
$$;

create or replace function realtime.is_visible_through_filters(
    columns realtime.wal_column[], filters realtime.user_defined_filter[]
)
    returns boolean
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    if coalesce(pg_catalog.cardinality(filters), 0) = 0 then
        return true;
    end if;
    return pg_catalog.bool_and(
        coalesce(
            realtime.check_equality_op(
                f.op, t.type_, realtime.value_text(c.value, t.type_), f.value
            ),
            false
        )
    )
    from pg_catalog.unnest(filters) f
    join pg_catalog.unnest(columns) c on c.name = f.column_name
    cross join lateral (
        -- wal2json has no OIDs before its version 2.5.
        select coalesce(c.type_oid::regtype, c.type_name::regtype) as type_
    ) t;
end
$$;

create or replace function realtime.build_prepared_statement_sql(
    prepared_statement_name text, entity regclass, columns realtime.wal_column[]
)
    returns text
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    -- ONLY: a child's row with the same key would be checked by the parent's policies.
    return pg_catalog.format(
        'prepare %I as select exists (select 1 from only %I.%I t where %s)',
        prepared_statement_name,
        n.nspname,
        r.relname,
        (
            select pg_catalog.string_agg(
                pg_catalog.format(
                    't.%I %s %L::%s',
                    c.name,
                    realtime.operator_of('=', t.type_),
                    realtime.value_text(c.value, t.type_),
                    pg_catalog.format_type(t.type_, -1)
                ),
                ' and '
            )
            from pg_catalog.unnest(columns) c
            cross join lateral (
                select coalesce(c.type_oid::regtype, c.type_name::regtype) as type_
            ) t
            where c.is_pkey
        )
    )
    from pg_catalog.pg_class r
    join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where r.oid = entity;
end
$$;
