"""TokenLimit: how many different access tokens the channels of one connection may use.

In RLS mode each row is checked for each token's claims. A client that brings ever new tokens, or
another one for each channel, has the database asked as often. A client that replaces its user's
token before it expires needs two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import LimitError
from ..phoenix.reasons import ReplyReason

__all__ = ["TokenLimit"]

_MEMORY: Final = 60.0
"""Seconds for which a token still counts when no channel uses it any more."""


class TokenLimit:
    """The access tokens of one connection.

    Args:
        most: different tokens that may be in use, or may have been within the last minute.
        clock: seconds of any clock that only goes forward.
    """

    __slots__ = ("_by_topic", "_clock", "_kept_until", "_most", "_uses")

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        # The hash of each topic's token. Two tokens with the same hash count as one.
        self._by_topic: dict[str, int] = {}
        # How many channels use each token, and until when one counts that none uses any more.
        self._uses: dict[int, int] = {}
        self._kept_until: dict[int, float] = {}

    def check(self, token: str) -> None:
        """Raise LimitError if the connection may not use another token; an empty token is none."""
        if not token or hash(token) in self._uses:
            return
        now = self._clock()
        self._kept_until = {one: end for one, end in self._kept_until.items() if end > now}
        known = self._uses.keys() | self._kept_until.keys()
        if hash(token) not in known and len(known) >= self._most:
            raise LimitError(
                "tokens",
                ReplyReason.TOKENS.told(most=self._most),
            )

    def hold(self, topic: str, token: str) -> None:
        """Record that a channel uses a token, in place of the one that it used before.

        Raises:
            LimitError: if the token is one too many; nothing was changed then.
        """
        self.check(token)
        self.release(topic)
        if token:
            one = self._by_topic[topic] = hash(token)
            self._uses[one] = self._uses.get(one, 0) + 1

    def release(self, topic: str) -> None:
        """Record that a channel uses no token any more."""
        one = self._by_topic.pop(topic, None)
        if one is None:
            return
        self._uses[one] -= 1
        if not self._uses[one]:
            del self._uses[one]
            self._kept_until[one] = self._clock() + _MEMORY
