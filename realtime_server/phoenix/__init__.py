"""The Phoenix channel protocol, without I/O.

Bytes and messages in, messages and actions out. The wire format and its rules are those of "Writing
a Channels Client" in the documentation of Phoenix, the Elixir web framework.
"""
