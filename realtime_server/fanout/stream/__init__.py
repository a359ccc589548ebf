"""STREAM mode: every change goes to all clients that may join its topic.

:mod:`.mode` puts the parts together, :mod:`.broadcaster` hands changes from the source to the hub,
and :mod:`.join_checks` checks joins against the tables of the database.
"""
