-- The table of subscriptions. Its rows are the servers' own and come back with their clients,
-- so a table of the very first form, which had users instead of claims, is emptied.

create or replace function realtime.to_regrole(role_name text)
    returns regrole
    language sql
    immutable
    set search_path = ''
as $$
    -- As a name, never as an OID or a list of quoted parts.
    select pg_catalog.quote_ident(role_name)::pg_catalog.regrole
$$;

create table if not exists realtime.subscription (
    id bigint generated always as identity,
    subscription_id uuid not null,
    entity regclass not null,
    filters realtime.user_defined_filter[] not null default '{}',
    claims jsonb not null,
    claims_role regrole not null
        generated always as (realtime.to_regrole(claims ->> 'role')) stored,
    created_at timestamp not null default pg_catalog.timezone('utc', pg_catalog.now()),
    constraint pk_subscription primary key (id)
);

do $$
begin
    if not exists (
        select from pg_catalog.pg_attribute
        where attrelid = 'realtime.subscription'::pg_catalog.regclass
            and attname = 'claims'
            and not attisdropped
    ) then
        truncate realtime.subscription;
        alter table realtime.subscription
            drop column if exists user_id cascade,
            drop column if exists email cascade,
            add column subscription_id uuid not null,
            add column claims jsonb not null,
            add column claims_role regrole not null
                generated always as (realtime.to_regrole(claims ->> 'role')) stored;
    end if;
end
$$;

alter table realtime.subscription add column if not exists action_filter text default '*'
    constraint subscription_action_filter_check
        check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE'));
alter table realtime.subscription add column if not exists selected_columns text[] default null;
alter table realtime.subscription add column if not exists node text default null;

create unique index if not exists subscription_subscription_id_entity_filters_key
    on realtime.subscription (subscription_id, entity, filters);
create index if not exists ix_realtime_subscription_entity on realtime.subscription (entity);
create index if not exists ix_realtime_subscription_node on realtime.subscription (node);
