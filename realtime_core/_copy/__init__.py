"""What ``python -m realtime_core copy`` does: tables are copied, and kept as they are.

A source hands over a snapshot and then changes; :mod:`.plan` says what becomes of each in SQL, a
target executes it and keeps the position, :mod:`.run` has them meet.
"""
