"""PostgreSQL's types: how a value's text is read, and how values compare.

A type has one module, or shares one with its kin. Filters, the memory source, the conversion to
Python values and the server's JSON use what they need of it. No sockets, no driver.
"""
