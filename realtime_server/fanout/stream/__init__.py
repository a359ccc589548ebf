"""STREAM mode: every change goes to everybody who may join its topic.

:mod:`.mode` puts it together; :mod:`.broadcaster` hands changes from the source to the hub;
:mod:`.registrar` checks joins against the database's tables.
"""
