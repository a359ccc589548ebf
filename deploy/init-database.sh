#!/bin/sh
# Prepares the database of compose.yaml: the server's role, a table with rows, its publication.
# The image of PostgreSQL runs it once, when the database is new.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --set password="$(cat "$DB_PASSWORD_FILE")" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'END'
-- It may read the stream of changes, and no table.
CREATE ROLE realtime LOGIN REPLICATION NOINHERIT PASSWORD :'password';
CREATE TABLE public.todos (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    details text NOT NULL,
    done boolean NOT NULL DEFAULT false
);
INSERT INTO public.todos (details) VALUES ('Start the server'), ('See a change arrive');
CREATE PUBLICATION supabase_realtime FOR TABLE public.todos;
END
