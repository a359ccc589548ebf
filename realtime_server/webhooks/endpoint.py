"""Endpoint: the queue of requests for one endpoint, which sends one after the other.

The queue has a bound in bytes. When it is full, ``hold`` stops reading changes until there is room,
so that the database keeps them; ``drop`` writes new requests to the dead letters. A request is
tried until the endpoint takes it, until the attempts are used up, or until the endpoint says that
it never will. When the endpoint says that it is gone (410), nothing is sent to it any more until
the server is started again: what is meant for it goes to the dead letters. With ``hold`` a request
that the dead letters cannot take stays in the queue, also when the endpoint is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias

import attrs

from ..config import ServerConfig, Webhook, WhenFull
from ..logs import of_webhook
from .client import Answer, UnreachableError
from .dead_letters import DeadLetter, DeadLetters, FileFullError
from .log_throttle import LogThrottle
from .request import Request
from .retries import Verdict, pause, retry_after, verdict_on

__all__ = ["Counts", "Endpoint", "Post"]

logger = logging.getLogger("realtime.webhooks")

Post: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]
"""Sends a body with headers to a URL once; raises :exc:`UnreachableError`."""

_LONG: Final = 256 * 1024
"""Bytes of a request above which a thread signs it: 8 MiB take some 10 ms, in which sockets would
wait."""
_MOST_AT_ONCE: Final = 1024 * 1024
"""Bytes of dropped requests that are written to the dead letters together."""


@attrs.define
class Counts:
    """Counters of one endpoint's requests."""

    delivered: int = 0
    retries: int = 0
    """All attempts except the first of each request."""
    dead: int = 0
    """Requests that were given up."""


class Endpoint:
    """The queue of requests for one endpoint.

    Args:
        webhook: the endpoint's configuration.
        config: the settings of all webhooks.
        post: sends a request once.
        letters: the file for requests that are given up; None if there is none.
        clock: returns seconds since 1970.
        chance: returns a random number from 0 to 1.
    """

    def __init__(
        self,
        webhook: Webhook,
        config: ServerConfig,
        post: Post,
        letters: DeadLetters | None,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = webhook.name
        self.counts = Counts()
        self.is_disabled = False
        """Whether it has said that it wants no more."""
        self.waiting_bytes = 0
        self._url = webhook.endpoint
        self._config = config
        self._drops = config.webhook_when_full is WhenFull.DROP
        self._post = post
        self._letters = letters
        self._clock = clock
        self._chance = chance
        # The first is under way.
        self._waiting: deque[Request] = deque()
        # How many of them were put before the last gap.
        self._before_gap = 0
        # Those that are not to be sent, until they are in the dead letters.
        self._dropped: list[Request] = []
        self._dropped_bytes = 0
        # Requests come to the dead letters in the order in which they were put.
        self._giving_up = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._stopped = asyncio.Event()
        self._is_failing = False
        self._may_say = LogThrottle()

    @property
    def oldest(self) -> float | None:
        """When the oldest waiting change was committed, in seconds since 1970; None if none
        waits."""
        return self._waiting[0].commit_time if self._waiting else None

    async def put(self, request: Request) -> None:
        """Have a request delivered, behind all that were put before.

        Where too much waits already, this waits too (``hold``), or the request is one of those
        that :meth:`flush` gives up (``drop``), as is then each that is put when the endpoint is
        gone. After :meth:`stop` nothing makes room any more, and this does not wait.
        """
        while self._is_full(request) and not (self._drops or self._stopped.is_set()):
            if self._may_say("full"):
                logger.warning(
                    "webhook %r: %d bytes wait for %s; nothing more is read for webhooks until it "
                    "has taken some",
                    self.name,
                    self.waiting_bytes,
                    "the file of dead letters" if self.is_disabled else "its endpoint",
                    extra=of_webhook(self.name, "webhook_full", waiting_bytes=self.waiting_bytes),
                )
            self._has_room.clear()
            await self._has_room.wait()
        if self._drops and (self.is_disabled or self._is_full(request)):
            self._dropped.append(request)
            self._dropped_bytes += request.size
            if self._dropped_bytes > _MOST_AT_ONCE:
                await self.flush()
            return
        self._waiting.append(request)
        self.waiting_bytes += request.size
        self._arrived.set()

    def note_gap(self) -> None:
        """Note that changes were lost: what waits now may not be read again after a restart."""
        self._before_gap = len(self._waiting)

    async def flush(self) -> None:
        """Give up the requests for which :meth:`put` had no room: they go into the dead letters.

        With ``WEBHOOK_WHEN_FULL=hold`` there are none."""
        if self._dropped:
            async with self._giving_up:
                await self._give_up_dropped()

    async def run(self) -> None:
        """Deliver, or once the endpoint is gone give up, what is put, until :meth:`stop`."""
        failures = 0
        while not self._stopped.is_set():
            try:
                await self._run_once()
                failures = 0
            except Exception:
                # It is this endpoint's alone: nothing else of the server ends for it.
                failures += 1
                if self._may_say("failure"):
                    logger.exception(
                        "webhook %r: its requests cannot be sent, and are tried again (a bug in "
                        "realtime_server: please report it)",
                        self.name,
                        extra=of_webhook(self.name, "webhook_error"),
                    )
                await self._pause(failures)

    async def _run_once(self) -> None:
        if not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        elif self.is_disabled:
            async with self._giving_up:
                await self._give_up_waiting()
        elif await self._deliver(self._waiting[0]):
            self._remove_first()

    def stop(self) -> None:
        """Begin no more attempts; :meth:`run` ends when the one that is under way has."""
        self._stopped.set()
        self._arrived.set()
        self._has_room.set()

    async def give_up_rest(self, reason: str, *, only_before_gap: bool = False) -> None:
        """Put what waits into the dead letters.

        Args:
            reason: why it is given up.
            only_before_gap: leave what was put since the last gap, because it will be read again.
                What is before the gap may be, too, so it is not done unless it was written.
        """
        async with self._giving_up:
            count = self._before_gap if only_before_gap else len(self._waiting)
            requests = list(islice(self._waiting, count))
            if requests:
                kept = await self._give_up(requests, 0, reason, lose=not only_before_gap)
                if only_before_gap and not (kept and self._letters is not None):
                    return
            for _ in requests:
                self._remove_first()
            await self._give_up_dropped()

    async def _give_up_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            self._dropped_bytes = 0
            reason = "the endpoint is gone" if self.is_disabled else "too much waits already"
            await self._give_up(dropped, 0, reason, lose=True)
            for request in dropped:
                request.done()

    def _is_full(self, request: Request) -> bool:
        most = self._config.webhook_waiting_bytes
        return bool(self._waiting) and self.waiting_bytes + request.size > most

    def _remove_first(self) -> None:
        request = self._waiting.popleft()
        self.waiting_bytes -= request.size
        self._before_gap = max(self._before_gap - 1, 0)
        self._has_room.set()
        request.done()

    async def _deliver(self, request: Request) -> bool:
        """Try to send a request until something comes of it.

        Returns:
            whether the request is to be removed; False if :meth:`stop` came first, or the endpoint
            is gone.
        """
        config = self._config
        failures = 0
        while not self._stopped.is_set():
            verdict, reason, asked_for = await self._attempt(request)
            if verdict is Verdict.DONE:
                self.counts.delivered += 1
                if self._is_failing:
                    self._is_failing = False
                    logger.info(
                        "webhook %r: its endpoint takes requests again",
                        self.name,
                        extra=of_webhook(self.name, "webhook_recovered"),
                    )
                return True
            failures += 1
            if verdict is Verdict.GONE:
                await self._disable(request, failures, reason)
                return False
            # Not only at the last attempt: the dead letters may have been unwritable then.
            is_spent = 0 < config.webhook_max_attempts <= failures
            is_last = verdict is not Verdict.AGAIN or is_spent
            if is_last and await self._give_up([request], failures, reason, lose=self._drops):
                return True
            if not self._is_failing:
                self._is_failing = True
                logger.warning(
                    "webhook %r: %s; it is tried again",
                    self.name,
                    reason,
                    extra=of_webhook(
                        self.name, "webhook_failing", reason=reason, position=request.position
                    ),
                )
            await self._pause(failures, asked_for)
            if not self._stopped.is_set():
                self.counts.retries += 1
        return False

    async def _disable(self, request: Request, attempts: int, reason: str) -> None:
        """Send nothing any more, as the endpoint is gone, and give up what waits."""
        self.is_disabled = True
        logger.error(
            "webhook %r: its endpoint is gone (status 410); nothing is sent to it any "
            "more until the server is started again",
            self.name,
            extra=of_webhook(self.name, "webhook_gone", reason=reason),
        )
        async with self._giving_up:
            if await self._give_up_in_the_end([request], attempts, reason):
                self._remove_first()
                await self._give_up_waiting()

    async def _attempt(self, request: Request) -> tuple[Verdict, str, float]:
        """Send once; return what comes of it, why, and for how long the endpoint wants a pause."""
        secrets, now = self._config.webhook_secret, self._clock()
        if request.size > _LONG:
            headers = await asyncio.to_thread(request.headers, secrets, now)
        else:
            headers = request.headers(secrets, now)
        try:
            answer = await self._post(self._url, headers, request.body)
        except UnreachableError as exc:
            return Verdict.AGAIN, str(exc), 0.0
        reason = f"status {answer.status}"
        if 300 <= answer.status < 400:
            reason += ", a redirect, which is not followed"
        asked_for = retry_after(answer.retry_after, self._clock())
        return verdict_on(answer.status), reason, asked_for

    async def _pause(self, failures: int, asked_for: float = 0.0) -> None:
        """Wait before the next attempt, or until :meth:`stop`."""
        config = self._config
        seconds = pause(
            failures,
            least=config.webhook_backoff_min / 1000,
            most=config.webhook_backoff_max / 1000,
            asked_for=min(asked_for, config.webhook_retry_after_max / 1000),
            random=self._chance(),
        )
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def _give_up_waiting(self) -> None:
        requests = list(self._waiting)
        if requests and await self._give_up_in_the_end(requests, 0, "the endpoint is gone"):
            for _ in requests:
                self._remove_first()

    async def _give_up_in_the_end(
        self, requests: Sequence[Request], attempts: int, reason: str
    ) -> bool:
        """Give requests up: with ``hold`` not before the dead letters have them.

        Returns:
            whether they are given up; False if :meth:`stop` came first.
        """
        failures = 0
        while not await self._give_up(requests, attempts, reason, lose=self._drops):
            failures += 1
            await self._pause(failures)
            if self._stopped.is_set():
                return False
        return True

    async def _give_up(
        self, requests: Sequence[Request], attempts: int, reason: str, *, lose: bool
    ) -> bool:
        """Put requests into the dead letters; return False if they are to be kept instead.

        Args:
            requests: of this endpoint.
            attempts: how often they were tried.
            reason: why they are given up.
            lose: do without the dead letters if they cannot be written.
        """
        kept = "lost, as there is no WEBHOOK_DEAD_LETTERS"
        if self._letters is not None:
            kept = "in the dead letters"
            letters = [DeadLetter(request, self.name, attempts, reason) for request in requests]
            try:
                await self._letters.add(letters)
            except (OSError, FileFullError) as exc:
                then = "the request is lost" if lose else "the request is kept"
                if self._may_say("unwritable"):
                    why = exc.strerror if isinstance(exc, OSError) else str(exc)
                    logger.error(
                        "webhook %r: the dead letters cannot be written (%s); %s",
                        self.name,
                        why,
                        then,
                        extra=of_webhook(self.name, "dead_letters_unwritable", reason=why),
                    )
                if not lose:
                    return False
                kept = "lost"
        self.counts.dead += len(requests)
        if count := self._may_say(kept, len(requests)):
            logger.warning(
                "webhook %r: the request at %s is given up (%s), and %s; requests given up "
                "since the last such line: %d",
                self.name,
                requests[-1].position,
                reason,
                kept,
                count,
                extra=of_webhook(
                    self.name,
                    "request_given_up",
                    reason=reason,
                    position=requests[-1].position,
                    count=count,
                ),
            )
        return True
