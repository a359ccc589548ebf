"""The SQL function that tries what policies let clients read and write, one question after the
other.

For each question the function inserts rows as the server's role, takes on the client's role and
settings, and looks which of the rows it sees; or it inserts them as the client's role. Then it
rolls all of that back, and what a policy has set for its transaction. A policy's error ends its own
question only. The rows are of a time before 2000, for which ``realtime.messages`` has an unlogged
partition: they cost no WAL, and no slot decodes them.

The statements that policies decide on are planned each time: a function that is declared IMMUTABLE
and reads the claims would keep its result in the plan, and so show it to the next client.

The function has the search path that the database has for everybody, as policies expect, so that
every name and operator in it is qualified.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CALL", "CANCELED", "FUNCTION", "PROBE_TIME", "Step"]

CANCELED: Final = "57014"
"""The SQLSTATE of a question during which the call was canceled; those behind have no answer."""
PROBE_TIME: Final = "1999-12-31"
"""``inserted_at`` of the rows that are tried."""


class Step:
    """Where in a question an error came up: values of the column ``step``."""

    ROWS: Final = "rows"
    """While the server's role wrote the rows that are to be seen."""
    SETTINGS: Final = "settings"
    """While the client's role and settings were taken on."""
    POLICIES: Final = "policies"
    """While policies decided."""


_INSERTED: Final = ("topic", "extension", "inserted_at", "updated_at")

FUNCTION: Final = f"""
CREATE OR REPLACE FUNCTION pg_temp.realtime_try_policies(
    questions_ pg_catalog.jsonb, seconds_ pg_catalog.float8
)
RETURNS TABLE (
    place integer, granted pg_catalog.text[], step pg_catalog.text, state pg_catalog.text,
    message pg_catalog.text
)
LANGUAGE plpgsql
-- At the end, however it comes, the role is the session's own.
SET role = 'none'
AS $function$
#variable_conflict use_column
DECLARE
    until_ pg_catalog.timestamptz := pg_catalog.clock_timestamp()
        OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => seconds_);
    time_ CONSTANT pg_catalog.timestamp := '{PROBE_TIME}';
    question_ pg_catalog.jsonb;
    role_ pg_catalog.text;
    topic_ pg_catalog.text;
    is_write_ pg_catalog.bool;
    asked_ pg_catalog.text[];
    ids_ pg_catalog.uuid[];
    extension_ pg_catalog.text;
BEGIN
    FOR place_ IN 1 .. pg_catalog.jsonb_array_length(questions_) LOOP
        EXIT WHEN place_ OPERATOR(pg_catalog.>) 1
            AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) until_;
        place := place_;
        granted := NULL;
        state := NULL;
        message := NULL;
        step := '{Step.ROWS}';
        question_ := questions_ OPERATOR(pg_catalog.->) (place_ OPERATOR(pg_catalog.-) 1);
        role_ := question_ OPERATOR(pg_catalog.->>) 'role';
        topic_ := question_ OPERATOR(pg_catalog.->>) 'topic';
        is_write_ := question_ OPERATOR(pg_catalog.->>) 'is_write';
        asked_ := pg_catalog.string_to_array(
            question_ OPERATOR(pg_catalog.->>) 'extensions', ','
        );
        BEGIN
            IF NOT is_write_ THEN
                ids_ := ARRAY(
                    SELECT pg_catalog.gen_random_uuid() FROM pg_catalog.unnest(asked_)
                );
                INSERT INTO realtime.messages (topic, extension, id, inserted_at, updated_at)
                    SELECT topic_, e.extension, e.id, time_, time_
                    FROM ROWS FROM (pg_catalog.unnest(asked_), pg_catalog.unnest(ids_))
                        AS e (extension, id);
            END IF;
            step := '{Step.SETTINGS}';
            PERFORM
                pg_catalog.set_config('realtime.topic', topic_, true),
                pg_catalog.set_config(
                    'request.jwt.claims', question_ OPERATOR(pg_catalog.->>) 'claims', true
                ),
                pg_catalog.set_config(
                    'request.jwt.claim.sub', question_ OPERATOR(pg_catalog.->>) 'sub', true
                ),
                pg_catalog.set_config('request.jwt.claim.role', role_, true),
                pg_catalog.set_config(
                    'request.headers', question_ OPERATOR(pg_catalog.->>) 'headers', true
                ),
                pg_catalog.set_config('role', role_, true);
            -- 'none' is no role, and would leave the server's.
            IF current_user OPERATOR(pg_catalog.<>) role_::pg_catalog.name THEN
                RAISE invalid_parameter_value;
            END IF;
            step := '{Step.POLICIES}';
            IF is_write_ THEN
                granted := '{{}}';
                FOREACH extension_ IN ARRAY asked_ LOOP
                    BEGIN
                        EXECUTE 'INSERT INTO realtime.messages'
                            ' ({", ".join(_INSERTED)}) VALUES ($1, $2, $3, $3)'
                            USING topic_, extension_, time_;
                        granted := pg_catalog.array_append(granted, extension_);
                    EXCEPTION
                        WHEN insufficient_privilege THEN
                            -- Policies say no with the same SQLSTATE as a grant that is missing.
                            IF EXISTS (
                                SELECT FROM pg_catalog.unnest(ARRAY{[*_INSERTED]}) c
                                WHERE NOT pg_catalog.has_column_privilege(
                                    'realtime.messages', c, 'INSERT'
                                )
                            ) THEN
                                RAISE;
                            END IF;
                    END;
                END LOOP;
            ELSE
                EXECUTE 'SELECT pg_catalog.array_agg(m.extension) FROM realtime.messages m'
                    ' WHERE m.id OPERATOR(pg_catalog.=) ANY ($1)'
                    ' AND m.inserted_at OPERATOR(pg_catalog.=) $2'
                    INTO granted USING ids_, time_;
                granted := coalesce(granted, '{{}}');
            END IF;
            -- What a policy has set for the transaction is not there for the next question.
            RAISE SQLSTATE 'RTEND';
        EXCEPTION
            WHEN query_canceled OR lock_not_available THEN
                granted := NULL;
                state := SQLSTATE;
            WHEN OTHERS OR assert_failure THEN
                -- Ours at the end, unless there is no answer yet.
                IF granted IS NULL OR SQLSTATE OPERATOR(pg_catalog.<>) 'RTEND' THEN
                    granted := NULL;
                    state := SQLSTATE;
                    message := pg_catalog.left(SQLERRM, 1000);
                END IF;
        END;
        RETURN NEXT;
        EXIT WHEN state OPERATOR(pg_catalog.=) '{CANCELED}';
    END LOOP;
END
$function$
"""
"""Makes the function, in the session."""

CALL: Final = (
    "SELECT place, granted, step, state, message FROM pg_temp.realtime_try_policies("
    "%s::pg_catalog.jsonb, %s)"
)
"""Calls it with a JSON array of questions, objects with role, claims, sub, headers, topic,
extensions with commas between, and is_write; and after how many seconds no further one is begun."""
