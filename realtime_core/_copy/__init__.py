"""What ``python -m realtime_core copy`` does: tables are copied, and kept as they are.

:mod:`.run` reads a source, and decides what is committed together; :mod:`.statements` makes SQL of
each row and change; :mod:`.targets` executes it in PostgreSQL or SQLite, stores the position, and
says which tables do not fit.
"""
