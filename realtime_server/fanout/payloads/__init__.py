"""The payloads of changes: the JSON that clients get."""
