"""The command line, ``python -m realtime_core``: one module a command, and what they share."""
