-- Values of types that are not PostgreSQL's own may run their owners' code: a domain's check, an
-- operator, a cast to JSON. That runs as realtime_nobody, a role without privileges, in
-- realtime.core_as_nobody, which `migrate` makes as soon as the role is there; never as whoever
-- calls the functions here. It is rolled back, too: else what it defers or has set would take
-- effect later, as the caller.

-- Whether a type runs nobody's code but PostgreSQL's. The number is FirstNormalObjectId.
create or replace function realtime.core_is_built_in(type_ regtype)
    returns boolean
    language sql
    immutable
as $$
    select type_::oid < 16384::oid
$$;

-- Whether realtime.core_as_nobody is what its name says. A dump that was restored without its
-- owners has it as the restorer's; and whose code runs in it may alter what the role owns.
create or replace function realtime.core_is_confined()
    returns boolean
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    return exists (
        select
        from pg_catalog.pg_proc p
        join pg_catalog.pg_roles r on r.oid = p.proowner
        where p.oid = pg_catalog.to_regprocedure('realtime.core_as_nobody(text)')
            and p.prosecdef
            and r.rolname = 'realtime_nobody'
            and not (
                r.rolsuper or r.rolbypassrls or r.rolreplication or r.rolcreaterole
                or r.rolcreatedb or r.rolcanlogin
            )
            and not exists (select from pg_catalog.pg_auth_members m where m.member = r.oid)
    );
end
$$;

-- The result of a query that may run a user's code, as text.
create or replace function realtime.core_confined(query text, type_ regtype)
    returns text
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    result text;
    is_over boolean := false;
begin
    if not realtime.core_is_confined() then
        raise exception
            'values of type % may run code of the type''s owner, and the role realtime_nobody '
            'that it would run as is not set up', pg_catalog.format_type(type_, -1)
            using
                errcode = 'insufficient_privilege',
                hint = '`python -m realtime_server migrate` sets it up, or prints what is missing.';
    end if;
    begin
        result := realtime.core_as_nobody(query);
        is_over := true;
        raise sqlstate 'RTEND';
    exception
        when others or assert_failure then
            if not is_over then
                -- The text is theirs, and may have any length.
                raise exception using
                    errcode = sqlstate, message = pg_catalog.left(sqlerrm, 200);
            end if;
    end;
    return result;
end
$$;

create or replace function realtime.cast(val text, type_ regtype)
    returns jsonb
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    -- format_type() with a modifier of -1 writes bpchar where regtype's own text is character,
    -- which would mean a single one.
    query constant text := pg_catalog.format(
        'select pg_catalog.to_jsonb(%L::%s)', val, pg_catalog.format_type(type_, -1)
    );
    result jsonb;
begin
    if not realtime.core_is_built_in(type_) then
        return realtime.core_confined(query, type_)::jsonb;
    end if;
    execute query into result;
    return result;
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
    query constant text := pg_catalog.format(
        case
            when op = 'in' then 'select %1$L::%2$s %3$s any (%4$L::%2$s[])'
            else 'select %1$L::%2$s %3$s %4$L::%2$s'
        end,
        val_1,
        pg_catalog.format_type(type_, -1),
        realtime.operator_of(realtime.symbol_of(op), type_),
        val_2
    );
    result boolean;
begin
    if not realtime.core_is_built_in(type_) then
        return realtime.core_confined(query, type_)::boolean;
    end if;
    execute query into result;
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
    query text;
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
        query := pg_catalog.format(
            'select pg_catalog.jsonb_populate_record(null::%s, %L)::text',
            pg_catalog.format_type(type_, -1),
            value
        );
        if not realtime.core_is_built_in(type_) then
            return realtime.core_confined(query, type_);
        end if;
        execute query into result;
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
    query text;
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
        query := pg_catalog.format(
            case
                when condition.op = 'in'
                    then 'select array(select l from pg_catalog.unnest(%4$L::text[]) l'
                        ' where %1$L::%2$s %3$s any (l::%2$s[]))'
                else 'select array(select l from pg_catalog.unnest(%4$L::text[]) l'
                    ' where %1$L::%2$s %3$s l::%2$s)'
            end,
            condition.val,
            pg_catalog.format_type(condition.type_, -1),
            realtime.operator_of(realtime.symbol_of(condition.op), condition.type_),
            condition.literals
        );
        begin
            if realtime.core_is_built_in(condition.type_) then
                execute query into holding;
            else
                holding := realtime.core_confined(query, condition.type_)::text[];
            end if;
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
                            't.%I %s %L%s::%s',
                            c.name,
                            realtime.operator_of('=', t.type_),
                            realtime.value_text(c.value, t.type_),
                            -- A plain literal is read when the statement is prepared, which is
                            -- before it is known who asks.
                            case when realtime.core_is_built_in(t.type_) then '' else '::text' end,
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

create or replace function realtime.subscription_check_filters()
    returns trigger
    language plpgsql
    set search_path = ''
as $$
declare
    role_ regrole := realtime.to_regrole(new.claims ->> 'role');
    filter realtime.user_defined_filter;
    name text;
    type_ regtype;
    query text;
    size integer;
begin
    foreach filter in array coalesce(new.filters, '{}') loop
        if not realtime.may_select(role_, new.entity, filter.column_name) then
            raise exception 'invalid column for filter %', filter.column_name
                using errcode = 'invalid_parameter_value';
        end if;
        select a.atttypid::regtype
        into type_
        from pg_catalog.pg_attribute a
        where a.attrelid = new.entity and a.attname = filter.column_name;
        if type_ is null then
            raise exception 'failed to lookup type for column %', filter.column_name
                using errcode = 'invalid_parameter_value';
        end if;
        if filter.op = 'in' then
            query := pg_catalog.format(
                'select pg_catalog.cardinality(%L::%s[])',
                filter.value,
                pg_catalog.format_type(type_, -1)
            );
            if realtime.core_is_built_in(type_) then
                execute query into size;
            else
                size := realtime.core_confined(query, type_)::integer;
            end if;
            if coalesce(size, 0) > 100 then
                raise exception 'too many values for `in` filter. Maximum 100'
                    using errcode = 'invalid_parameter_value';
            end if;
            -- With an element of the type's own: whether it has the operator shows here, not
            -- when a change comes by.
            perform realtime.check_equality_op('in', type_, null, filter.value);
        else
            perform realtime.cast(filter.value, type_);
            perform realtime.check_equality_op(filter.op, type_, filter.value, filter.value);
        end if;
    end loop;

    foreach name in array coalesce(new.selected_columns, '{}') loop
        if not realtime.may_select(role_, new.entity, name) then
            raise exception 'invalid column for select %', name
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;

    -- In one order, so that the unique index sees equal ones.
    new.filters := coalesce(
        (
            select pg_catalog.array_agg(f order by f.column_name, f.op, f.value)
            from pg_catalog.unnest(new.filters) f
        ),
        '{}'
    );
    if new.selected_columns is not null then
        new.selected_columns := array(
            select c from pg_catalog.unnest(new.selected_columns) c order by c
        );
    end if;
    return new;
end
$$;

-- Who may call realtime.cast needs these, too.
do $$
declare
    function_ text;
    caller text;
begin
    foreach function_ in array array[
        'realtime.core_is_built_in(regtype)',
        'realtime.core_is_confined()',
        'realtime.core_confined(text, regtype)'
    ] loop
        execute pg_catalog.format('revoke execute on function %s from public', function_);
        for caller in
            select case when g.grantee = 0 then 'public' else g.grantee::pg_catalog.regrole::text end
            from pg_catalog.pg_proc p
            cross join pg_catalog.aclexplode(p.proacl) g
            where p.oid = 'realtime.cast(text, regtype)'::pg_catalog.regprocedure
                and g.privilege_type = 'EXECUTE'
        loop
            execute pg_catalog.format('grant execute on function %s to %s', function_, caller);
        end loop;
    end loop;
end
$$;
