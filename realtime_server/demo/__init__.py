"""A whole realtime system on one machine, for trying out and for the tests.

`embedded` starts a throw-away PostgreSQL, `sample` fills it and keeps it
changing, and `python -m realtime_server.demo` puts the server on top.
`notes` and `two_views` do the same for a table with row level security.
Nothing outside this package imports it.
"""
