"""What ``python -m realtime_core copy`` does: tables are copied, and kept as they are.

:mod:`.run` reads a source, and decides what is committed together; :mod:`.targets` executes the
statements of :mod:`realtime_core.sql` in PostgreSQL or SQLite, stores the position, and says which
tables do not fit.
"""
