-- The objects of a later form: claims, types by OID, and a function that calls ours.
create schema realtime;
create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text);
create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
create type realtime.wal_column as (
    name text, type_name text, type_oid oid, value jsonb, is_pkey boolean, is_selectable boolean
);
create type realtime.wal_rls as (
    wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[]
);
create function realtime.to_regrole(role_name text) returns regrole
    language sql immutable as $$ select role_name::regrole $$;
create table realtime.subscription (
    id bigint not null generated always as identity primary key,
    subscription_id uuid not null,
    entity regclass not null,
    filters realtime.user_defined_filter[] not null default '{}',
    claims jsonb not null,
    claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
    created_at timestamp not null default timezone('utc', now())
);
create unique index subscription_subscription_id_entity_filters_key
    on realtime.subscription (subscription_id, entity, filters);
create function realtime.check_equality_op(
    op realtime.equality_op, type_ regtype, val_1 text, val_2 text
) returns boolean language sql immutable as $$ select false $$;
create function realtime.is_visible_through_filters(
    columns realtime.wal_column[], filters realtime.user_defined_filter[]
) returns boolean language sql immutable as $$ select false $$;
create function realtime.build_prepared_statement_sql(
    prepared_statement_name text, entity regclass, columns realtime.wal_column[]
) returns text language sql stable as $$ select '' $$;
create function realtime.subscription_check_filters() returns trigger
    language plpgsql as $$ begin return new; end $$;
create trigger tr_check_filters before insert or update on realtime.subscription
    for each row execute function realtime.subscription_check_filters();
create function realtime.apply_rls(wal jsonb, max_record_bytes integer default 1024 * 1024)
    returns setof realtime.wal_rls language sql volatile as $$ select null::realtime.wal_rls $$;
create function realtime.list_changes(slot_name name) returns setof realtime.wal_rls
    language sql volatile as $$ select * from realtime.apply_rls('{}') $$;
insert into realtime.subscription (subscription_id, entity, claims)
    values (gen_random_uuid(), 'pg_class', '{"role": "postgres"}');
