"""PostgreSQL's types: how the text of a value is read, and how values compare.

Each type has a module of its own, or shares one with similar types. Filters, the memory source, the
conversion to Python values and the server's JSON use what they need of it. There are no sockets
here, and no driver but the one that :mod:`.python_values` imports at the first conversion.
"""
