-- Values that cannot be read back from their text: regclass and its kin, which are printed by
-- the search path of whoever reads the slot, and values that their type's checks allow no more.
-- Such a value costs its column the JSON form, and never the call.

create or replace function realtime.cast_or_text(val text, type_ regtype)
    returns jsonb
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    -- PostgreSQL makes a JSON string of what they print.
    if type_ = any (array[
        'regclass', 'regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper',
        'regoperator', 'regproc', 'regprocedure', 'regrole', 'regtype'
    ]::pg_catalog.regtype[]) then
        return pg_catalog.to_jsonb(val);
    end if;
    return realtime.cast(val, type_);
exception
    when others then
        return pg_catalog.to_jsonb(val);
end
$$;

-- Whether PostgreSQL reads a value's text in a session with an empty search path, as the
-- functions here have it.
create or replace function realtime.is_readable(val text, type_ regtype)
    returns boolean
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    perform realtime.cast(val, type_);
    return true;
exception
    when others then
        return false;
end
$$;

-- The columns of a row as wal2json writes it.
create or replace function realtime.wal_columns(wal_row jsonb, pk jsonb)
    returns realtime.wal_column[]
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    texts constant regtype[] := array['text', 'varchar', 'bpchar'];
    as_they_are constant regtype[] := texts || array['int2', 'int4', 'int8', 'numeric']::regtype[];
begin
    return pg_catalog.array_agg(
        row(
            c.item ->> 'name',
            c.item ->> 'type',
            t.type_::oid,
            case
                -- Most values are what they would become.
                when t.type_ = any (as_they_are) and pg_catalog.jsonb_typeof(c.item -> 'value')
                    = case when t.type_ = any (texts) then 'string' else 'number' end
                    then c.item -> 'value'
                when c.item ->> 'value' is null then null
                -- wal2json writes bytea without its prefix.
                when t.type_ = 'bytea'::pg_catalog.regtype and c.item ->> 'value' not like '\\x%'
                    then realtime.cast('\x' || (c.item ->> 'value'), t.type_)
                else realtime.cast_or_text(c.item ->> 'value', t.type_)
            end,
            coalesce(pk @> pg_catalog.jsonb_build_array(
                pg_catalog.jsonb_build_object('name', c.item -> 'name')
            ), false),
            true
        )::realtime.wal_column
        order by c.place
    )
    from pg_catalog.jsonb_array_elements(wal_row) with ordinality c (item, place)
    cross join lateral (
        select
            coalesce(
                (c.item ->> 'typeoid')::pg_catalog.regtype,
                -- wal2json has no OIDs before its version 2.5.
                (c.item ->> 'type')::pg_catalog.regtype
            ) as type_
    ) t;
end
$$;

-- The subscriptions with filters that a row passes, all decided at once: each condition is
-- asked once for all values that anybody compares the column with. A value that cannot be read
-- passes none.
create or replace function realtime.passing(
    entity_ regclass, action_ realtime.action, columns realtime.wal_column[]
)
    returns bigint[]
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    condition record;
    holding text[];
    passed realtime.user_defined_filter[] := '{}';
begin
    for condition in
        select
            f.column_name,
            f.op,
            t.type_,
            realtime.value_text(c.value, t.type_) as val,
            pg_catalog.array_agg(distinct f.value) as literals
        from realtime.subscription s
        cross join pg_catalog.unnest(s.filters) f
        join pg_catalog.unnest(columns) c on c.name = f.column_name
        cross join lateral (
            select coalesce(c.type_oid::regtype, c.type_name::regtype) as type_
        ) t
        where s.entity = entity_ and (s.action_filter = '*' or s.action_filter = action_::text)
        group by f.column_name, f.op, t.type_, c.value
    loop
        begin
            execute pg_catalog.format(
                case
                    when condition.op = 'in'
                        then 'select array(select l from unnest($1) l where %1$L::%2$s %3$s any (l::%2$s[]))'
                    else 'select array(select l from unnest($1) l where %1$L::%2$s %3$s l::%2$s)'
                end,
                condition.val,
                pg_catalog.format_type(condition.type_, -1),
                realtime.operator_of(realtime.symbol_of(condition.op), condition.type_)
            ) into holding using condition.literals;
        exception
            when others then
                if realtime.is_readable(condition.val, condition.type_) then
                    raise;
                end if;
                continue;
        end;
        passed := passed || array(
            select row(condition.column_name, condition.op, h)::realtime.user_defined_filter
            from pg_catalog.unnest(holding) h
        );
    end loop;
    return array(
        select s.id
        from realtime.subscription s
        cross join pg_catalog.unnest(s.filters) f
        left join pg_catalog.unnest(passed) p
            on p.column_name = f.column_name and p.op = f.op and p.value = f.value
        where s.entity = entity_
            and (s.action_filter = '*' or s.action_filter = action_::text)
            -- Columns that are not there do not count.
            and f.column_name in (select c.name from pg_catalog.unnest(columns) c)
        group by s.id
        having pg_catalog.bool_and(p.op is not null)
    );
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
declare
    as_they_are constant regtype[] := array[
        'int2', 'int4', 'int8', 'numeric', 'text', 'varchar', 'bpchar', 'uuid'
    ];
begin
    -- ONLY: a child's row with the same key would be checked by the parent's policies.
    return pg_catalog.format(
        'prepare %I as select exists (select 1 from only %I.%I t where %s)',
        prepared_statement_name,
        n.nspname,
        r.relname,
        (
            select pg_catalog.string_agg(
                case
                    when t.type_ = any (as_they_are)
                        or realtime.is_readable(realtime.value_text(c.value, t.type_), t.type_)
                        then pg_catalog.format(
                            't.%I %s %L::%s',
                            c.name,
                            realtime.operator_of('=', t.type_),
                            realtime.value_text(c.value, t.type_),
                            pg_catalog.format_type(t.type_, -1)
                        )
                    -- Whose row it is cannot be found out, so nobody sees it.
                    else 'false'
                end,
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

revoke execute on function realtime.cast_or_text(text, regtype) from public;
revoke execute on function realtime.is_readable(text, regtype) from public;
