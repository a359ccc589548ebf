"""Stock clients whose connections break at random while rows are written: what does each miss?

`wire` is the network between a client and the server, `clients` are the clients, `rows` writes,
`faults` breaks things, `run` puts them together, and `verdict` compares what was written with what
each client saw. None of it knows how the server does its part.
"""
