-- Enums, which run no code unless their owner has given them an operator or a cast to JSON, are
-- decided by their labels, and need no realtime_nobody. And the JSON of many values of a type is
-- made at once: to run as nobody and to be rolled back takes longer than what most types do.

create or replace function realtime.core_is_plain_enum(type_ regtype)
    returns boolean
    language plpgsql
    stable
    set search_path = ''
as $$
begin
    -- Nothing is looked up by name after this, so nothing that is made meanwhile can come in.
    return not realtime.core_is_built_in(type_)
        and exists (
            select
            from pg_catalog.pg_type t
            where t.oid = type_
                and t.typtype = 'e'
                and not exists (
                    select
                    from pg_catalog.pg_operator o
                    where o.oprnamespace = t.typnamespace
                        and o.oprleft = t.oid
                        and o.oprright = t.oid
                )
                and not exists (
                    select
                    from pg_catalog.pg_cast c
                    where c.castsource = t.oid
                        and c.casttarget = any (array['json', 'jsonb']::pg_catalog.regtype[])
                )
        );
end
$$;

-- Where a label is in its enum's order.
create or replace function realtime.core_enum_place(val text, type_ regtype)
    returns real
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    place real;
begin
    if val is null then
        return null;
    end if;
    select e.enumsortorder
    into place
    from pg_catalog.pg_enum e
    where e.enumtypid = type_ and e.enumlabel = val;
    if place is null then
        raise exception 'invalid input value for enum %: "%"',
            pg_catalog.format_type(type_, -1), val
            using errcode = 'invalid_text_representation';
    end if;
    return place;
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
    if realtime.core_is_plain_enum(type_) then
        perform realtime.core_enum_place(val, type_);
        return pg_catalog.to_jsonb(val);
    end if;
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
    place real;
    result boolean;
begin
    if realtime.core_is_plain_enum(type_) then
        place := realtime.core_enum_place(val_1, type_);
        return case op
            when 'in' then place = any (
                case
                    when val_2 is not null then array(
                        select realtime.core_enum_place(l.item, type_)
                        from pg_catalog.unnest(val_2::text[]) l (item)
                    )
                end
            )
            when 'eq' then place = realtime.core_enum_place(val_2, type_)
            when 'neq' then place <> realtime.core_enum_place(val_2, type_)
            when 'lt' then place < realtime.core_enum_place(val_2, type_)
            when 'lte' then place <= realtime.core_enum_place(val_2, type_)
            when 'gt' then place > realtime.core_enum_place(val_2, type_)
            when 'gte' then place >= realtime.core_enum_place(val_2, type_)
        end;
    end if;
    if not realtime.core_is_built_in(type_) then
        return realtime.core_confined(query, type_)::boolean;
    end if;
    execute query into result;
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
            elsif realtime.core_is_plain_enum(condition.type_) then
                holding := array(
                    select l.item
                    from pg_catalog.unnest(condition.literals) l (item)
                    where realtime.check_equality_op(
                        condition.op, condition.type_, condition.val, l.item
                    )
                );
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
            elsif realtime.core_is_plain_enum(type_) then
                size := pg_catalog.cardinality(filter.value::text[]);
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

create or replace function realtime.core_cast_all(vals text[], type_ regtype)
    returns jsonb[]
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    query text;
    result jsonb[];
begin
    select pg_catalog.format(
        'select array[%s]::jsonb[]',
        pg_catalog.string_agg(
            pg_catalog.format(
                'pg_catalog.to_jsonb(%L::%s)', v.val, pg_catalog.format_type(type_, -1)
            ),
            ', '
            order by v.place
        )
    )
    into query
    from pg_catalog.unnest(vals) with ordinality v (val, place);
    if not realtime.core_is_built_in(type_) then
        return realtime.core_confined(query, type_)::jsonb[];
    end if;
    execute query into result;
    return result;
end
$$;

-- Who may call realtime.cast needs these, too.
do $$
declare
    function_ text;
    caller text;
begin
    foreach function_ in array array[
        'realtime.core_is_plain_enum(regtype)',
        'realtime.core_enum_place(text, regtype)',
        'realtime.core_cast_all(text[], regtype)'
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
