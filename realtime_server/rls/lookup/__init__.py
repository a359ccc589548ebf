"""Asks PostgreSQL which rows each viewer may see."""
