"""RLS mode: each change only to those whom PostgreSQL lets see it.

A slot is polled with wal2json (:mod:`.poller`); who may see a change is decided by row level
security, for each role and claims by themselves (:mod:`.authorizer`).
"""
