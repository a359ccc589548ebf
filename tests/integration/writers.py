"""Writers: change the table orders while programs that copy it are killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.fix_postgres import Database

__all__ = ["writing"]


@contextmanager
def writing(database: Database, random: Random, rows: int) -> Iterator[None]:
    """Have orders made, changed, given other keys and removed meanwhile.

    Args:
        database: it has the table ``orders (id, amount, note)``.
        random: decides which.
        rows: how many orders there are, with ids from 1.
    """
    stop = threading.Event()

    def write() -> None:
        number = rows
        with database.connect() as connection:
            while not stop.wait(0.002):
                number += 1
                known = random.randrange(number)
                with connection.transaction():
                    connection.execute("insert into orders values (%s, 1.5)", (number,))
                    connection.execute(
                        "update orders set amount = amount + 1 where id = %s", (known,)
                    )
                    connection.execute(
                        "update orders set id = -id where id = %s and note is null", (known - 7,)
                    )
                    connection.execute("delete from orders where id = %s", (known - 3,))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
