"""Setting up a database for RLS mode: the schema ``realtime``, roles and privileges."""
