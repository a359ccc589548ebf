"""FairQueue: what several senders want written, of which each sender's next item has its turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of several senders. Each sender's come in the order in which they were put; between
    senders, one item of each at a time."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        # By sender; the first one's item is the next.
        self._queues: OrderedDict[object, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, sender: object, item: T) -> None:
        """Put an item behind all others of its sender."""
        queue = self._queues.get(sender)
        if queue is None:
            self._queues[sender] = deque((item,))
        else:
            queue.append(item)

    def take(self) -> T:
        """Take the next item, and let all other senders come before this one's next.

        Raises:
            KeyError: if there is none.
        """
        queues = self._queues
        for sender, queue in queues.items():
            item = queue.popleft()
            if queue:
                queues.move_to_end(sender)
            else:
                del queues[sender]
            return item
        raise KeyError("nobody has put anything")
