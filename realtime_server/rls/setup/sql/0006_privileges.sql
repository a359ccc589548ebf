-- Nobody but their owner needs to call these; the schema holds everybody's claims.

do $$
declare
    function_ text;
begin
    for function_ in
        select p.oid::pg_catalog.regprocedure::text
        from pg_catalog.pg_proc p
        where p.pronamespace = 'realtime'::pg_catalog.regnamespace
            and p.proname = any (array[
                'apply_rls', 'build_prepared_statement_sql', 'cast', 'check_equality_op',
                'is_visible_through_filters', 'may_select', 'operator_of', 'passing',
                'quote_wal2json', 'subscription_check_filters', 'symbol_of', 'to_regrole',
                'value_text', 'wal_columns', 'wal_record'
            ])
    loop
        execute pg_catalog.format('revoke execute on function %s from public', function_);
    end loop;
end
$$;

revoke all on realtime.subscription from public;
