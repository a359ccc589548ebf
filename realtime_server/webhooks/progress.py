"""Progress: which transactions are delivered, so that they can be acknowledged.

A transaction is done when each of its requests was delivered or given up. They end in any order,
as each endpoint has its own pace; the slot moves behind the last one before which all are done.

A gap changes nothing of that. The slot may be the same behind it, as when a publication was dropped
and made again, and must not move past what was read before. Where it is another one, positions from
before the gap have no effect on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from realtime_core import Commit

__all__ = ["Progress", "Share"]


class Share:
    """The requests of one transaction that are not delivered yet, for all endpoints.

    Args:
        owner: the progress that the share belongs to.
    """

    __slots__ = ("_owner", "commit", "left")

    def __init__(self, owner: Progress) -> None:
        self._owner = owner
        self.left = 0
        """How many requests are neither delivered nor given up."""
        self.commit: Commit | None = None
        """The end of the transaction, or of the last one that is acknowledged with it; None while
        it is being read, and if it was lost."""

    def add(self) -> None:
        """Note a request."""
        self.left += 1

    def done(self) -> None:
        """Note that a request was delivered or given up."""
        self.left -= 1
        self._owner.advance()


class Progress:
    """The transactions that are not delivered yet.

    Args:
        acknowledge: called with the end of the last transaction that is done, as all before it
            are.
    """

    def __init__(self, acknowledge: Callable[[Commit], None]) -> None:
        self._acknowledge = acknowledge
        self._shares: deque[Share] = deque()

    def begin(self) -> Share:
        """Begin a transaction; return its share. One transaction is open at a time."""
        return Share(self)

    def end(self, share: Share, commit: Commit) -> None:
        """Note the end of a transaction."""
        share.commit = commit
        if share.left:
            self._shares.append(share)
        elif self._shares:
            # It is done when the one before it is: so what waits has a bound in requests.
            self._shares[-1].commit = commit
        else:
            self._acknowledge(commit)

    def cut(self, share: Share) -> None:
        """End a transaction whose commit was lost in a gap."""
        if share.left:
            self._shares.append(share)

    def advance(self) -> None:
        """Acknowledge the transactions that are delivered."""
        last = None
        while self._shares and not self._shares[0].left:
            # One whose end was lost has none.
            last = self._shares.popleft().commit or last
        if last is not None:
            self._acknowledge(last)
