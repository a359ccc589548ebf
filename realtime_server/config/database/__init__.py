"""The database that the settings name: its addresses, connections, stream and catalog.

Both modes use it. :mod:`.source` makes what reads the changes; :mod:`.catalog` and
:mod:`.publications` read what is true of tables now.
"""
