-- Types of the interface. Where an installation of the original has an earlier form of one,
-- it is changed in place: other functions may depend on it. No table has columns of the types
-- that change.

create schema if not exists realtime;

do $$
declare
    -- Of each composite type, its attributes in order.
    wanted record;
    found text[];
begin
    if pg_catalog.to_regtype('realtime.equality_op') is null then
        create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
    end if;
    if pg_catalog.to_regtype('realtime.action') is null then
        create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'ERROR');
    end if;
    if pg_catalog.to_regtype('realtime.user_defined_filter') is null then
        create type realtime.user_defined_filter as (
            column_name text,
            op realtime.equality_op,
            value text
        );
    end if;

    for wanted in
        values
            (
                'wal_column',
                array['name', 'type_name', 'type_oid', 'value', 'is_pkey', 'is_selectable'],
                array['text', 'text', 'oid', 'jsonb', 'boolean', 'boolean']
            ),
            (
                'wal_rls',
                array['wal', 'is_rls_enabled', 'subscription_ids', 'errors'],
                array['jsonb', 'boolean', 'uuid[]', 'text[]']
            )
    loop
        if pg_catalog.to_regtype('realtime.' || wanted.column1) is null then
            execute pg_catalog.format('create type realtime.%I as ()', wanted.column1);
        end if;
        found := array(
            select a.attname::text
            from pg_catalog.pg_attribute a
            join pg_catalog.pg_class c on c.oid = a.attrelid
            where c.relnamespace = 'realtime'::pg_catalog.regnamespace
                and c.relname = wanted.column1
                and a.attnum > 0
                and not a.attisdropped
            order by a.attnum
        );
        if found is distinct from wanted.column2 then
            for place in 1 .. pg_catalog.cardinality(found) loop
                execute pg_catalog.format(
                    'alter type realtime.%I drop attribute %I', wanted.column1, found[place]
                );
            end loop;
            for place in 1 .. pg_catalog.cardinality(wanted.column2) loop
                execute pg_catalog.format(
                    'alter type realtime.%I add attribute %I %s',
                    wanted.column1, wanted.column2[place], wanted.column3[place]
                );
            end loop;
        end if;
    end loop;
end
$$;

-- For a type that is older than this value. It can be used from the next transaction on.
alter type realtime.equality_op add value if not exists 'in';
