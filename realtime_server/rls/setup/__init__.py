"""The schema realtime: what makes it, what may be missing."""
