"""The streaming replication protocol without a connection: bytes, command texts, bookkeeping."""
