"""MemorySource: a source without PostgreSQL, for tests of programs that consume changes.

A :class:`MemoryDatabase` plays the server: it has tables to write to, and slots that remember
what was acknowledged. Sources that read it behave as the real ones do::

    database = MemoryDatabase()
    todos = database.table("todos", {"id": "int8", "task": "text"}, key="id")
    async with MemorySource(database, slot="app") as source:
        todos.insert(id=1, task="write a test")
        change = await anext(source)
        source.ack(change)

What can go wrong with a real server is a method of the database: connections break, slots are lost.
A second source on the same slot stands for the application after a restart. Use a database and its
sources in one event loop and one thread. Nothing in them sleeps, or reads the clock.
"""

from ._database import MemoryDatabase
from ._source import MemorySource
from ._tables import MemoryTable

__all__ = [
    # ._database
    "MemoryDatabase",
    # ._source
    "MemorySource",
    # ._tables
    "MemoryTable",
]
