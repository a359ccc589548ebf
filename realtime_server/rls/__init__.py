"""RLS mode: each change only to those whom PostgreSQL lets see it.

It reads the same stream as STREAM mode (:mod:`.reader`); who may see a change is decided by row
level security, for each role and claims by themselves (:mod:`.authorizer`).
"""
