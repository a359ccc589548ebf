-- The objects of the original's first form, which had users instead of claims.
create schema realtime;
create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text);
create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'ERROR');
create type realtime.wal_column as (name text, type text, value jsonb, is_pkey boolean, is_selectable boolean);
create type realtime.wal_rls as (wal jsonb, is_rls_enabled boolean, users uuid[], errors text[]);
create table realtime.subscription (
    id bigint not null generated always as identity primary key,
    user_id uuid not null,
    email varchar(255),
    entity regclass not null,
    filters realtime.user_defined_filter[] not null default '{}',
    created_at timestamp not null default timezone('utc', now()),
    unique (entity, user_id, filters)
);
create function realtime.quote_wal2json(entity regclass) returns text
    language sql immutable strict as $$ select '' $$;
create function realtime.cast(val text, type_ regtype) returns jsonb
    language sql immutable as $$ select null::jsonb $$;
create function realtime.apply_rls(wal jsonb, max_record_bytes int = 1024 * 1024)
    returns realtime.wal_rls language sql volatile as $$ select null::realtime.wal_rls $$;
insert into realtime.subscription (user_id, entity) values (gen_random_uuid(), 'pg_class');
