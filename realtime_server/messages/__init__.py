"""The table ``realtime.messages``: what the database broadcasts, and its partitions."""
