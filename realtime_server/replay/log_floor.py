"""LogFloor: takes channels that came back over the changes that are not there any more.

A channel whose place is below the floor, or in another stream, has lost changes. It is told of a
gap up to the floor, and goes on from there. The floor is the log's, or a lower one where older
changes can be read again (:mod:`.older_changes`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..fanout.turns import Turn
from .catch_up_queue import CatchUpQueue
from .catch_up_round import CatchUpRound, RoundMember
from .change_log import ChangeLog
from .going_live import TellGap
from .older_changes import OlderChanges
from .places import Place

__all__ = ["LogFloor"]


class LogFloor:
    """Finds channels below the log's floor, and lifts them to it.

    Args:
        log: the changes that channels may have missed.
        older: the changes that the log has given up.
        tell: tells a channel of the changes that are not there any more.
    """

    def __init__(self, log: ChangeLog, older: OlderChanges, tell: TellGap) -> None:
        self._log = log
        self._older = older
        self._tell = tell

    def is_above(self, member: RoundMember) -> bool:
        """Return whether the log has given up changes that a channel missed, which is in no hub."""
        return member.epoch != self._log.epoch or member.place < self._older.floor

    def is_above_round(self, one: CatchUpRound) -> bool:
        """Return whether the log has given up changes that a round would publish next."""
        return one.epoch != self._log.epoch or one.place < self._older.floor

    async def lift_all(
        self, members: Sequence[RoundMember], queue: CatchUpQueue
    ) -> list[RoundMember]:
        """Move channels that are below the log's floor to it, and tell them of the gap.

        Args:
            members: channels that wait for a round; those that do not wait any more are left out.
            queue: where they wait.

        Returns:
            The channels that still wait at the end.
        """
        turn = Turn()
        while True:
            waiting = [one for one in members if queue.is_ready(one)]
            epoch, floor = self._log.epoch, self._older.floor
            lost = [one for one in waiting if self.is_above(one)]
            if not lost:
                return waiting
            for member in lost:
                if queue.is_ready(member):
                    self._lift(member, epoch, floor)
                    await turn.give_way()

    async def lift_round(self, one: CatchUpRound, turn: Turn) -> None:
        """Lift a round to the floor, with all its channels that are below it."""
        epoch, floor = self._log.epoch, self._older.floor
        # Whoever comes back meanwhile to a place below the floor must not join.
        one.publishing_to = floor
        for member in list(one.members.values()):
            if member.round is one:
                self._tell(member.subscription, one.place, floor)
                await turn.give_way()
        # The members with the highest places come first, so that all stay in order meanwhile.
        for member in list(one.entering):
            if member.round is one and (member.epoch != epoch or member.place < floor):
                self._lift(member, epoch, floor)
                await turn.give_way()
        one.place, one.epoch = floor, epoch

    def _lift(self, member: RoundMember, epoch: int, floor: Place) -> None:
        self._tell(member.subscription, member.place, floor)
        member.place, member.epoch = floor, epoch
