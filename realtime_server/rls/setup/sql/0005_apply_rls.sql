-- For one change of wal2json (format 2): what each role may see of it, and which subscriptions.

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
                else realtime.cast(c.item ->> 'value', t.type_)
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

-- The part of a row that a role sees, as an object.
create or replace function realtime.wal_record(
    columns realtime.wal_column[], wanted text[], is_too_large boolean
)
    returns jsonb
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    return coalesce(pg_catalog.jsonb_object_agg(c.name, c.value), '{}')
    from pg_catalog.unnest(columns) c
    where c.name = any (wanted)
        and (not is_too_large or pg_catalog.octet_length(c.value::text) <= 64);
end
$$;

-- The subscriptions with filters that a row passes, all decided at once: each condition is
-- asked once for all values that anybody compares the column with.
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

do $$
begin
    -- The original's first form returned a single row.
    if exists (
        select
        from pg_catalog.pg_proc p
        where p.oid = pg_catalog.to_regprocedure('realtime.apply_rls(jsonb, integer)')
            and not p.proretset
    ) then
        drop function realtime.apply_rls(jsonb, integer);
    end if;
end
$$;

create or replace function realtime.apply_rls(wal jsonb, max_record_bytes integer default 1048576)
    returns setof realtime.wal_rls
    language plpgsql
    volatile
    -- Whatever happens, the role is the caller's own again at the end. The search path cannot
    -- be set here: policies must find what their authors meant, so all names are qualified
    -- instead.
    set role = 'none'
as $$
declare
    action_ realtime.action := case wal ->> 'action'
        when 'I' then 'INSERT'
        when 'U' then 'UPDATE'
        when 'D' then 'DELETE'
        else 'ERROR'
    end;
    is_delete boolean := wal ->> 'action' = 'D';
    is_too_large boolean := pg_catalog.octet_length(wal::text) > max_record_bytes;
    entity_ regclass;
    is_rls_enabled_ boolean;
    columns_ realtime.wal_column[];
    old_columns realtime.wal_column[];
    key text[];
    passing bigint[];
    -- Per role and selected columns.
    audience record;
    selectable text[];
    wanted text[];
    old_wanted text[];
    head jsonb;
    record_ jsonb;
    old_record jsonb;
    -- Per claims.
    viewer record;
    statement text;
    prefix constant integer := pg_catalog.length('prepare realtime_apply_rls as ') + 1;
    number integer;
    is_visible boolean;
    visible uuid[];
begin
    select c.oid, c.relrowsecurity
    into entity_, is_rls_enabled_
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = wal ->> 'schema' and c.relname = wal ->> 'table';
    if entity_ is null then
        raise exception 'relation "%.%" does not exist', wal ->> 'schema', wal ->> 'table'
            using errcode = 'undefined_table';
    end if;

    columns_ := realtime.wal_columns(wal -> 'columns', wal -> 'pk');
    old_columns := realtime.wal_columns(wal -> 'identity', wal -> 'pk');
    key := array(
        select c.name from pg_catalog.unnest(coalesce(columns_, old_columns)) c where c.is_pkey
    );
    head := pg_catalog.jsonb_build_object(
        'schema', wal -> 'schema', 'table', wal -> 'table', 'type', action_
    );

    for audience in
        select
            s.claims_role as role_,
            r.rolname as role_name,
            s.selected_columns,
            pg_catalog.array_agg(s.subscription_id order by s.id) as subscription_ids,
            pg_catalog.bool_or(s.filters <> '{}') as has_filters
        from realtime.subscription s
        join pg_catalog.pg_roles r on r.oid = s.claims_role
        where s.entity = entity_ and (s.action_filter = '*' or s.action_filter = action_::text)
        group by s.claims_role, r.rolname, s.selected_columns
        order by
            s.claims_role::text,
            pg_catalog.array_to_string(s.selected_columns, ',') nulls first
    loop
        if key = '{}' and not is_delete then
            return next row(
                head,
                is_rls_enabled_,
                audience.subscription_ids,
                array['Error 400: Bad Request, no primary key']
            )::realtime.wal_rls;
            continue;
        end if;

        selectable := array(
            select a.attname::text
            from pg_catalog.pg_attribute a
            where a.attrelid = entity_
                and a.attnum > 0
                and not a.attisdropped
                and pg_catalog.has_column_privilege(audience.role_, entity_, a.attnum, 'SELECT')
            order by a.attnum
        );
        if not is_delete and not key <@ selectable then
            return next row(
                head,
                is_rls_enabled_,
                audience.subscription_ids,
                array['Error 401: Unauthorized']
            )::realtime.wal_rls;
            continue;
        end if;

        wanted := selectable;
        if audience.selected_columns is not null then
            wanted := array(
                select c
                from pg_catalog.unnest(selectable) with ordinality s (c, place)
                where c = any (audience.selected_columns) or c = any (key)
                order by place
            );
        end if;

        if audience.has_filters and passing is null then
            passing := realtime.passing(entity_, action_, columns_);
            if is_delete then
                passing := passing || realtime.passing(entity_, action_, old_columns);
            end if;
        end if;

        visible := '{}';
        if is_delete or not is_rls_enabled_ then
            -- Row level security has nothing to say of a row that is gone.
            if audience.has_filters then
                visible := array(
                    select s.subscription_id
                    from realtime.subscription s
                    where s.entity = entity_
                        and (s.action_filter = '*' or s.action_filter = action_::text)
                        and s.claims_role = audience.role_
                        and s.selected_columns is not distinct from audience.selected_columns
                        and (
                            s.filters = '{}'
                            or s.id in (select p from pg_catalog.unnest(passing) p)
                        )
                    order by s.id
                );
            else
                visible := audience.subscription_ids;
            end if;
        else
            statement := realtime.build_prepared_statement_sql(
                'realtime_apply_rls', entity_, columns_
            );
            number := 0;
            -- One check for all that share their claims, whatever their number.
            for viewer in
                select
                    s.claims,
                    pg_catalog.array_agg(s.subscription_id order by s.id) as subscription_ids
                from realtime.subscription s
                where s.entity = entity_
                    and (s.action_filter = '*' or s.action_filter = action_::text)
                    and s.claims_role = audience.role_
                    and s.selected_columns is not distinct from audience.selected_columns
                    and (
                        s.filters = '{}'
                        or s.id in (select p from pg_catalog.unnest(passing) p)
                    )
                group by s.claims
                order by pg_catalog.min(s.id)
            loop
                -- Each in a statement of its own: what a policy has in a subquery is computed
                -- once in each.
                number := number + 1;
                if number = 2 then
                    -- One that an error has left behind.
                    if exists (
                        select
                        from pg_catalog.pg_prepared_statements p
                        where p.name = 'realtime_apply_rls'
                    ) then
                        deallocate realtime_apply_rls;
                    end if;
                    execute statement;
                end if;
                begin
                    perform
                        pg_catalog.set_config('role', audience.role_name, true),
                        pg_catalog.set_config('request.jwt.claims', viewer.claims::text, true);
                    if number = 1 then
                        execute pg_catalog.substr(statement, prefix) into is_visible;
                    else
                        execute 'execute realtime_apply_rls' into is_visible;
                    end if;
                    -- What a policy keeps for its transaction, as who asks, is not there for
                    -- the next one.
                    raise sqlstate 'RTEND';
                exception
                    when sqlstate 'RTEND' then
                        null;
                end;
                if is_visible then
                    visible := visible || viewer.subscription_ids;
                end if;
            end loop;
            if number > 1 then
                deallocate realtime_apply_rls;
            end if;
        end if;

        record_ := realtime.wal_record(
            -- An unchanged TOASTed column is not among the new ones; the old row may have it.
            columns_ || array(
                select o
                from pg_catalog.unnest(old_columns) o
                where o.name <> all (select c.name from pg_catalog.unnest(columns_) c)
            ),
            wanted,
            is_too_large
        );
        old_wanted := wanted;
        if is_delete and is_rls_enabled_ then
            old_wanted := array(select c from pg_catalog.unnest(wanted) c where c = any (key));
        end if;
        old_record := realtime.wal_record(old_columns, old_wanted, is_too_large);

        return next row(
            head
                || pg_catalog.jsonb_build_object(
                    'commit_timestamp',
                    pg_catalog.to_char(
                        (wal ->> 'timestamp')::timestamptz at time zone 'utc',
                        'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
                    ),
                    'columns',
                    (
                        select coalesce(
                            pg_catalog.jsonb_agg(
                                pg_catalog.jsonb_build_object('name', a.attname, 'type', t.typname)
                                order by a.attnum
                            ),
                            '[]'
                        )
                        from pg_catalog.pg_attribute a
                        join pg_catalog.pg_type t on t.oid = a.atttypid
                        where a.attrelid = entity_
                            and a.attnum > 0
                            and not a.attisdropped
                            and a.attname = any (wanted)
                    )
                )
                || case
                    when is_delete then '{}'
                    else pg_catalog.jsonb_build_object('record', record_)
                end
                || case
                    when wal ->> 'action' = 'I' then '{}'
                    else pg_catalog.jsonb_build_object('old_record', old_record)
                end,
            is_rls_enabled_,
            visible,
            case when is_too_large then array['Error 413: Payload Too Large'] else '{}' end
        )::realtime.wal_rls;
    end loop;
end
$$;
