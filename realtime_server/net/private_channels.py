"""PrivateChannels: what policies let clients do in private channels, and what they are told of it.

Decisions are kept with the channel until its token changes: what it may read is decided when it
joins, what it may write when it first does. That the database cannot be asked is no decision.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from types import TracebackType
from typing import Final, Self

import attrs

from ..auth.grant import Grant
from ..config import ServerConfig
from ..config.database.addresses import resolve_dsn
from ..errors import RefusedError, UnavailableError
from ..fanout.recent_commits import RecentCommits
from ..messages.policies.policy_checks import PolicyChecks
from ..messages.policies.questions import Answer, Extension, Problem, Question
from ..messages.stored_messages import StoredMessages
from ..metrics import Metrics
from ..phoenix.broadcasts import Broadcast
from ..phoenix.joins import ReplayConfig
from ..phoenix.policy_reasons import PolicyReason
from ..rls.viewers import Viewer, Viewers

__all__ = ["Access", "PrivateChannels", "make_private_channels", "shown_headers"]

_AT_ONCE: Final = 32
"""Questions of one HTTP request that wait at the same time."""

_REASONS: Final = {
    Problem.POLICY_FAILED: PolicyReason.FAILED,
    Problem.TIMED_OUT: PolicyReason.TIMED_OUT,
    Problem.AWAY: PolicyReason.AWAY,
    Problem.BUSY: PolicyReason.BUSY,
    Problem.NO_PARTITION: PolicyReason.NO_PARTITION,
    Problem.UNKNOWN_ROLE: PolicyReason.ROLE,
    Problem.MAY_NOT_ACT: PolicyReason.ROLE,
}


@attrs.define(eq=False)
class Access:
    """What policies let a private channel do, with the token that it has."""

    viewer: Viewer
    """Its role and claims."""
    headers: str = attrs.field(repr=False)
    """The headers of its connection that policies can read, as a JSON object."""
    name: str
    """Its topic, without ``realtime:``."""
    reads: frozenset[Extension]
    """What it may read, of what it asked for."""
    asked: tuple[Extension, ...]
    """What it asked for."""
    writes: dict[Extension, PolicyReason | None] = attrs.field(factory=dict, init=False)
    """What it may write, as far as that is decided: None, or why not."""

    def is_decided(self, extension: Extension) -> bool:
        """Return whether it is known what the channel may write, and what it then may read."""
        if extension not in self.writes:
            return False
        return self.writes[extension] is not None or extension in self.asked


class PrivateChannels:
    """Asks policies for a server, while it is open as a context manager.

    Args:
        checks: answers questions.
        stored: reads stored messages.
        ignored_claims: the names of claims that no policy reads.
        metrics: of the server.
    """

    def __init__(
        self,
        checks: PolicyChecks,
        stored: StoredMessages,
        ignored_claims: Collection[str],
        metrics: Metrics,
    ) -> None:
        self._checks = checks
        self._stored = stored
        self._viewers = Viewers(ignored_claims)
        self._counters = cache(metrics.broadcasts.policies.labels)

    async def __aenter__(self) -> Self:
        await self._stored.__aenter__()
        await self._checks.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._checks.__aexit__(exc_type, exc, traceback)
        await self._stored.__aexit__(exc_type, exc, traceback)

    async def admit(
        self,
        name: str,
        grant: Grant,
        headers: str,
        extensions: Sequence[Extension] = (Extension.BROADCAST,),
    ) -> Access:
        """Decide whether a client may join a private channel.

        Args:
            name: of the channel, its topic without ``realtime:``.
            grant: what its token says.
            headers: of its connection, as :func:`shown_headers` returns them.
            extensions: what it wants to read.

        Raises:
            RefusedError: if it may read none of it.
            UnavailableError: if that cannot be decided now.
        """
        viewer = self._viewers.of(grant)
        return await self._read(Access(viewer, headers, name, frozenset(), (*extensions,)))

    async def renewed(self, access: Access, grant: Grant) -> Access:
        """Decide whether a private channel may stay joined with a new token.

        Raises:
            RefusedError: if it may not read all that it could.
            UnavailableError: if that cannot be decided now.
        """
        viewer = self._viewers.of(grant)
        renewed = await self._read(attrs.evolve(access, viewer=viewer))
        if not access.reads <= renewed.reads:
            raise RefusedError(
                PolicyReason.READ_LOST.told(name=access.name),
                logged="its new token may not read what the old one could",
            )
        return renewed

    async def _read(self, access: Access) -> Access:
        """Decide what a channel may read; return it with what that is."""
        answer = await self._ask(access, access.asked, is_write=False)
        if answer.problem is not None and answer.problem is not Problem.POLICY_FAILED:
            reason = _REASONS[answer.problem]
            error = UnavailableError if answer.problem.is_passing else RefusedError
            raise error(reason.told())
        if not answer.granted:
            raise RefusedError(
                PolicyReason.NOT_READ.told(name=access.name), logged="no policy lets it read"
            )
        access.reads = answer.granted
        return access

    async def stored(
        self, name: str, wanted: ReplayConfig, *, takes_bytes: bool
    ) -> list[Broadcast]:
        """Read what was broadcast from the database in a private room lately.

        Raises:
            UnavailableError: if it cannot be read now.
        """
        found = await self._stored.read(name, wanted, takes_bytes=takes_bytes)
        if found is None:
            raise UnavailableError(PolicyReason.REPLAY.told())
        return found

    async def decide_on_presence(self, access: Access) -> None:
        """Decide whether a channel may see who is present, unless that was done.

        If the database cannot be asked, it may not now, and is decided on again the next time.
        """
        if Extension.PRESENCE in access.asked:
            return
        answer = await self._ask(access, (Extension.PRESENCE,), is_write=False)
        if answer.problem is None or not answer.problem.is_passing:
            access.asked += (Extension.PRESENCE,)
            access.reads |= answer.granted

    async def why_not_write(self, access: Access, extension: Extension) -> PolicyReason | None:
        """Return why a channel may not write; None if it may."""
        if extension in access.writes:
            return access.writes[extension]
        answer = await self._ask(access, (extension,), is_write=True)
        reason = _why_not(answer)
        if answer.problem is None or not answer.problem.is_passing:
            access.writes[extension] = reason
        return reason

    async def why_not_send(
        self, names: Collection[str], grant: Grant, headers: Mapping[str, str]
    ) -> PolicyReason | None:
        """Return why an HTTP request may not broadcast in private rooms; None if it may in all.

        Args:
            names: of the rooms, without ``realtime:``.
            grant: what the request's token says.
            headers: of the request.

        Raises:
            RefusedError: if the token has no role that could be asked about.
        """
        viewer, shown = self._viewers.of(grant), shown_headers(headers)
        left = [Access(viewer, shown, name, frozenset(), ()) for name in dict.fromkeys(names)]
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            asked = (self._ask(one, (Extension.BROADCAST,), is_write=True) for one in some)
            for answer in await asyncio.gather(*asked):
                if (reason := _why_not(answer)) is not None:
                    return reason
        return None

    async def _ask(
        self, access: Access, extensions: tuple[Extension, ...], *, is_write: bool
    ) -> Answer:
        answer = Answer()
        # No row can have another topic.
        if "\0" not in access.name and not any("\ud800" <= c <= "\udfff" for c in access.name):
            answer = await self._checks.ask(
                Question(access.viewer, access.headers, access.name, extensions, is_write=is_write)
            )
        label = "granted" if answer.granted else "denied"
        if answer.problem is not None:
            label = _REASONS[answer.problem].code
        self._counters(label).inc()
        return answer


def make_private_channels(
    config: ServerConfig, metrics: Metrics, commits: RecentCommits | None
) -> PrivateChannels | None:
    """Make what asks the policies of the server's database; None if there are no private channels.

    It connects when it is first needed.

    Args:
        config: of the server.
        metrics: of the server.
        commits: of which transactions members have got messages in private rooms lately; None: of
            none ever.
    """
    if not config.has_private_channels:
        return None
    dsn = partial(resolve_dsn, config)
    checks = PolicyChecks(dsn, timeout=config.rls_check_timeout / 1000)
    stored = StoredMessages(dsn, max_payload_bytes=config.max_payload_bytes, commits=commits)
    return PrivateChannels(checks, stored, config.rls_ignored_claims, metrics)


def _why_not(answer: Answer) -> PolicyReason | None:
    """Return why nothing may be written; None if it may."""
    if answer.problem is not None:
        return _REASONS[answer.problem]
    return None if answer.granted else PolicyReason.NOT_WRITTEN


def shown_headers(headers: Mapping[str, str]) -> str:
    """Return the headers that policies can read, as the original shows them."""
    shown = {name: value for name, value in headers.items() if name.startswith("x-")}
    return json.dumps(shown, sort_keys=True)
