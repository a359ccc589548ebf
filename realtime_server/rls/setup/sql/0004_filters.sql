-- What a subscription may ask for.

-- Whether a role may SELECT a live column; false for one that is not there.
create or replace function realtime.may_select(role_ regrole, entity regclass, column_name text)
    returns boolean
    language sql
    stable
    set search_path = ''
as $$
    select exists (
        select
        from pg_catalog.pg_attribute a
        where a.attrelid = entity
            and a.attname = column_name
            and a.attnum > 0
            and not a.attisdropped
            and pg_catalog.has_column_privilege(role_, entity, a.attnum, 'SELECT')
    )
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
    list text;
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
            list := pg_catalog.format_type(type_, -1) || '[]';
            execute pg_catalog.format('select pg_catalog.cardinality(%L::%s)', filter.value, list)
            into size;
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

drop trigger if exists tr_check_filters on realtime.subscription;
create trigger tr_check_filters
    before insert or update on realtime.subscription
    for each row execute function realtime.subscription_check_filters();
