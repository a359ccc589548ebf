"""The Phoenix channel protocol, without I/O.

The wire format and its rules: "Writing a Channels Client" in the Phoenix documentation.
"""
