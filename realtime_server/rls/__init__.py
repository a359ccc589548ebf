"""RLS mode: each change is sent only to those whom row level security lets see its row.

It reads the same stream as STREAM mode. :mod:`.reader` forms batches of changes, :mod:`.matcher`
finds the channels that ask for a change, :mod:`.checker` asks PostgreSQL for each role and claims
who may see it, and :mod:`.delivery` sends it. :mod:`.mode` puts the parts together.
"""
