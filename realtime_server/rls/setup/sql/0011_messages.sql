-- realtime.messages: a row is a message to a room, and its policies say who may read and write in
-- private rooms. The partitions by day are made by the server, and by `migrate`. What has no
-- partition of its day goes into the default partition, so that sending never fails.

do $$
begin
    -- The original's first form, of which it kept nothing for longer than three days either.
    if exists (
        select from pg_catalog.pg_class
        where oid = pg_catalog.to_regclass('realtime.messages') and relkind <> 'p'
    ) then
        alter table realtime.messages rename to messages_unpartitioned;
    end if;
end
$$;

create table if not exists realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default pg_catalog.timezone('utc', pg_catalog.clock_timestamp()),
    inserted_at timestamp not null default pg_catalog.timezone('utc', pg_catalog.clock_timestamp()),
    id uuid not null default pg_catalog.gen_random_uuid(),
    binary_payload bytea,
    skip_broadcast boolean not null default false,
    expires_at timestamp,
    primary key (id, inserted_at)
) partition by range (inserted_at);

alter table realtime.messages add column if not exists binary_payload bytea;
alter table realtime.messages
    add column if not exists skip_broadcast boolean not null default false;
alter table realtime.messages add column if not exists expires_at timestamp;
-- As UTC in every session, and later with each message of a transaction.
alter table realtime.messages
    alter column updated_at
        set default pg_catalog.timezone('utc', pg_catalog.clock_timestamp()),
    alter column inserted_at
        set default pg_catalog.timezone('utc', pg_catalog.clock_timestamp());
alter table realtime.messages enable row level security;

create index if not exists messages_inserted_at_topic_index
    on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private;

-- Where the server tries whether policies let a row be seen or written. It takes those rows back;
-- in an unlogged table they cost no WAL, and no slot decodes them.
create unlogged table if not exists realtime.messages_probes
    partition of realtime.messages for values from (minvalue) to ('2000-01-01');
create table if not exists realtime.messages_default partition of realtime.messages default;
alter table realtime.messages_probes enable row level security;
alter table realtime.messages_default enable row level security;

revoke all on realtime.messages, realtime.messages_probes, realtime.messages_default from public;

do $$
declare
    role_ name;
begin
    for role_ in
        select rolname from pg_catalog.pg_roles
        where rolname in ('anon', 'authenticated', 'service_role')
    loop
        execute pg_catalog.format('grant usage on schema realtime to %I', role_);
        execute pg_catalog.format('grant select, insert on realtime.messages to %I', role_);
    end loop;
end
$$;

do $$
begin
    if not exists (
        select from pg_catalog.pg_publication
        where pubname = 'supabase_realtime_messages_publication'
    ) then
        create publication supabase_realtime_messages_publication
            for table realtime.messages
            with (publish = 'insert', publish_via_partition_root = true);
    end if;
exception
    -- It takes CREATE on the database. `--check` says so where the publication is read.
    when insufficient_privilege then
        raise warning 'publication supabase_realtime_messages_publication was not made: %', sqlerrm;
end
$$;

create or replace function realtime.topic()
    returns text
    language sql
    stable
as $$
    select nullif(pg_catalog.current_setting('realtime.topic', true), '')
$$;

-- These three run with the rights of whoever calls them, so that policies decide. They set no
-- search_path: functions that policies call, and triggers, may rely on the caller's.

create or replace function realtime.send(
    payload jsonb, event text, topic text, private boolean default true
)
    returns void
    language plpgsql
    volatile
as $$
declare
    message_id constant uuid := pg_catalog.gen_random_uuid();
    former_topic constant text := pg_catalog.current_setting('realtime.topic', true);
begin
    if pg_catalog.jsonb_typeof(payload) operator(pg_catalog.=) 'object'
        and not payload operator(pg_catalog.?) 'id'
    then
        payload := payload operator(pg_catalog.||)
            pg_catalog.jsonb_build_object('id', message_id);
    end if;
    -- For policies that ask for it.
    perform pg_catalog.set_config('realtime.topic', topic, true);
    insert into realtime.messages (id, payload, event, topic, private, extension)
        values (message_id, payload, event, topic, private, 'broadcast');
    perform pg_catalog.set_config('realtime.topic', former_topic, true);
exception
    when others then
        raise warning 'realtime.send: the message was not sent: %', sqlerrm;
end
$$;

create or replace function realtime.send_binary(
    payload bytea, event text, topic text, private boolean default true
)
    returns void
    language plpgsql
    volatile
as $$
declare
    former_topic constant text := pg_catalog.current_setting('realtime.topic', true);
begin
    -- The frame has one byte for the length of each.
    if pg_catalog.octet_length(pg_catalog.convert_to(event, 'UTF8')) operator(pg_catalog.>) 255
        or pg_catalog.octet_length(pg_catalog.convert_to(topic, 'UTF8')) operator(pg_catalog.>) 246
    then
        raise warning 'realtime.send_binary: the message was not sent: the event has more than '
            '255 bytes, or the topic more than 246';
        return;
    end if;
    perform pg_catalog.set_config('realtime.topic', topic, true);
    insert into realtime.messages (binary_payload, event, topic, private, extension)
        values (payload, event, topic, private, 'broadcast');
    perform pg_catalog.set_config('realtime.topic', former_topic, true);
exception
    when others then
        raise warning 'realtime.send_binary: the message was not sent: %', sqlerrm;
end
$$;

create or replace function realtime.broadcast_changes(
    topic_name text,
    event_name text,
    operation text,
    table_name text,
    table_schema text,
    new record,
    old record,
    level text default 'ROW'
)
    returns void
    language plpgsql
    volatile
as $$
begin
    if level operator(pg_catalog.=) 'STATEMENT' then
        raise exception 'the trigger has to be one FOR EACH ROW';
    end if;
    if operation is null
        or operation operator(pg_catalog.<>) all (array['INSERT', 'UPDATE', 'DELETE'])
    then
        raise exception 'the operation is %, and not INSERT, UPDATE or DELETE', operation;
    end if;
    perform realtime.send(
        pg_catalog.jsonb_build_object(
            'old_record', old,
            'record', new,
            'operation', operation,
            'table', table_name,
            'schema', table_schema
        ),
        event_name,
        topic_name
    );
exception
    when others then
        raise exception 'Failed to process the row: %', sqlerrm;
end
$$;
