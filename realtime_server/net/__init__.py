"""Sockets: who connects, what arrives, what is written."""
