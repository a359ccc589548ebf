-- Roles are shared by all databases of a cluster, so they may be there already.
DO $$
BEGIN
    -- What tokens claim as "role".
    IF to_regrole('chat_user') IS NULL THEN CREATE ROLE chat_user NOLOGIN; END IF;
    -- The realtime server's own. It may read nothing of the users' itself.
    IF to_regrole('chat_server') IS NULL THEN CREATE ROLE chat_server LOGIN REPLICATION NOINHERIT; END IF;
    -- The app's own, which reads and writes as chat_user, and may do nothing by itself.
    IF to_regrole('chat_app') IS NULL THEN CREATE ROLE chat_app LOGIN NOINHERIT; END IF;
    -- As whom the code of types runs that are not PostgreSQL's own.
    IF to_regrole('realtime_nobody') IS NULL THEN CREATE ROLE realtime_nobody NOLOGIN NOINHERIT; END IF;
    IF current_setting('server_version_num')::int >= 160000 THEN
        GRANT chat_user, realtime_nobody TO chat_server WITH INHERIT FALSE, SET TRUE;
        GRANT chat_user TO chat_app WITH INHERIT FALSE, SET TRUE;
    ELSE
        GRANT chat_user, realtime_nobody TO chat_server;
        GRANT chat_user TO chat_app;
    END IF;
END
$$;
