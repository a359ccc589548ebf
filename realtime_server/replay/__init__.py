"""Replay: a client that comes back gets what it missed, although it keeps nothing itself.

Theory of operation. The server remembers, for each channel of a client that is away, up to which
place of the stream the client is known to have received everything (:mod:`.places`). Changes behind
the lowest such place are kept. When the client joins the channel again, it gets what is behind its
place, through a hub of its own that runs behind the live one, until it has caught up.
"""
