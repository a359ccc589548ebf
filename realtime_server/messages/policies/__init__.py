"""Policies: asks PostgreSQL what the policies of ``realtime.messages`` let a client read and write.

The server tries it: it inserts a row and looks whether the client's role sees it, or inserts one as
that role. Nothing of that stays in the database.
"""
