-- The servers that are alive. Rows of realtime.subscription whose node is not among them are
-- a dead server's.

create table if not exists realtime.core_node (
    node text primary key,
    expires_at timestamptz not null
);
