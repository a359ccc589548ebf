"""The streaming replication protocol without I/O: messages, the texts of commands, bookkeeping."""
