"""The command line, ``python -m realtime_core``: a module for each command, and shared ones."""
