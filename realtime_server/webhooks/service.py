"""Webhooks: reads changes from a source and passes them to the queues of the endpoints."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from realtime_core import (
    Begin,
    Change,
    ChangeSource,
    Commit,
    ConfigError,
    Event,
    Gap,
    Idle,
    LogicalMessage,
    SourceStats,
    Transaction,
)
from realtime_core.filters import EnumOrders

from ..config import ServerConfig, Webhook
from ..config.database.source import make_webhook_source
from ..fanout.cancellation import cancel_within
from ..fanout.payloads.row_payload import Plans, RowPayload, row_payloads
from ..fanout.turns import Turn
from .body import Bodies, Body, message_id
from .client import Client
from .dead_letters import DeadLetters
from .endpoint import Endpoint
from .progress import Progress, Share
from .request import Request
from .rules import Rules
from .stats import EndpointStats, WebhookStats

__all__ = ["Webhooks", "make_webhooks", "open_dead_letters"]

logger = logging.getLogger("realtime.webhooks")

_MEGABYTE: Final = 1_000_000
_LOOK_UPS: Final = 16
"""How many look-ups of one endpoint's name may be under way. A resolver that gives no answer keeps
each for longer than an attempt lasts."""
_PATIENCE: Final = 1.0
"""Seconds that the reading of changes may take to end, once it is cancelled."""


class _Feed:
    """Selects the changes that one endpoint wants, and joins them to bodies of requests."""

    def __init__(self, webhook: Webhook, endpoint: Endpoint, rules: Rules, most: int) -> None:
        self.endpoint = endpoint
        self.rules = rules
        self._webhook = webhook
        self._most = most
        # The bodies of the transaction that is being read, once it has a change for this endpoint.
        self._bodies: Bodies | None = None

    async def take(self, row: RowPayload, transaction: Transaction, share: Share) -> None:
        """Take a change, if the endpoint wants it."""
        wanted = self.rules.wanted(row)
        if wanted is None:
            return
        if self._bodies is None:
            self._bodies = Bodies(transaction, self._most)
        room = self._bodies.room
        # A payload that does not fit would be rendered in vain.
        if wanted.is_larger(room) or len(wanted.payload) > room:
            wanted = wanted.short
        await self._put(self._bodies.add(wanted.payload, row.change.index), share)

    async def end(self, share: Share) -> None:
        """Put the rest of the transaction into the endpoint's queue."""
        if self._bodies is not None:
            bodies, self._bodies = self._bodies, None
            await self._put(bodies.end(), share)

    async def _put(self, body: Body | None, share: Share) -> None:
        if body is None:
            return
        webhook = self._webhook
        share.add()
        request = Request(
            id=message_id(body, name=webhook.name, endpoint=webhook.endpoint),
            position=str(body.position),
            body=body.content,
            part=body.part,
            is_last=body.is_last,
            commit_time=body.commit_time.timestamp(),
            done=share.done,
        )
        await self.endpoint.put(request)


class Webhooks:
    """Sends a source's changes to the configured endpoints while it is open.

    Args:
        config: the server's settings.
        source: where the changes come from, with boundaries of transactions; nothing else reads
            from its slot.
        enums: the labels of enum types in their order, for filters.
        others: returns the figures of another reader of the same database: while this one waits for
            an endpoint, it hears nothing of what the database writes.
        clock: returns seconds since 1970.

    Raises:
        ConfigError: if they cannot be sent, or the dead letters cannot be written.
    """

    def __init__(
        self,
        config: ServerConfig,
        source: ChangeSource[Event],
        enums: EnumOrders,
        *,
        others: Callable[[], SourceStats],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._source = source
        self._others = others
        self._clock = clock
        self._client = Client(config)
        letters = open_dead_letters(config)
        self._feeds = [
            _Feed(
                webhook,
                Endpoint(webhook, config, self._client.post, letters, clock=clock),
                Rules(webhook, enums),
                config.webhook_max_bytes,
            )
            for webhook in config.configuration_file.webhooks
        ]
        self._plans: Plans = {}
        self._progress = Progress(source.ack)
        # Of the transaction that is being read.
        self._share: Share | None = None
        self._is_taking = False
        # Nothing more is read.
        self._is_stopping = False
        self._reading: asyncio.Task[None]
        self._delivering: list[asyncio.Task[None]] = []
        self.running: asyncio.Task[None]
        """The task that ends when the stream ends, or raises its error. It is there once this is
        open."""

    async def __aenter__(self) -> Self:
        """Start to read changes, in the background."""
        # asyncio's own threads are few: two names without an answer would keep all of them, and the
        # requests to other endpoints would fail, too.
        threads = ThreadPoolExecutor(_LOOK_UPS * len(self._feeds), "look-up")
        asyncio.get_running_loop().set_default_executor(threads)
        await self._source.__aenter__()
        self._reading = asyncio.create_task(self._read())
        self._delivering = [asyncio.create_task(feed.endpoint.run()) for feed in self._feeds]
        self.running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Read no more, let the attempts end that are under way, and let go of the slot.

        What waits stays in the database, for the next start. With a temporary slot, or from before
        a gap, it would be lost, and so goes into the dead letters.
        """
        self._is_stopping = True
        for feed in self._feeds:
            feed.endpoint.stop()
        # What was read is taken to its end: now no queue makes it wait for room.
        if not self._is_taking:
            self._reading.cancel()
        await cancel_within({self._reading}, _PATIENCE)
        await cancel_within([*self._delivering, self.running], self._config.drain_timeout / 1000)
        is_temporary = self._config.webhook_slot is None
        if is_temporary:
            # Part of a transaction may have been read.
            await self._end_transaction()
        for feed in self._feeds:
            await feed.endpoint.give_up_rest(
                "the server was stopped", only_before_gap=not is_temporary
            )
        await self._source.aclose()
        await self._client.__aexit__(exc_type, exc, traceback)

    def stats(self) -> WebhookStats:
        """Return counters and gauges, as they are now."""
        stream, others, now = self._source.stats(), self._others(), self._clock()
        written = max(each.confirmed_lsn + each.lag_bytes for each in (stream, others))
        return WebhookStats(
            connected=stream.connected,
            # Before it has attached, it does not know where its slot stands.
            lag_bytes=written - stream.confirmed_lsn if stream.confirmed_lsn else 0,
            gaps=stream.gaps,
            endpoints=tuple(_stats(feed, now) for feed in self._feeds),
        )

    async def _run(self) -> None:
        """Wait until the stream ends, or something is wrong with the reading or the sending."""
        waiting = {self._reading, *self._delivering}
        while self._reading in waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():
                    task.result()

    async def _read(self) -> None:
        turn = Turn()
        async for batch in self._source.batches():
            self._is_taking = True
            for event in batch:
                await self._take(event)
                await turn.give_way()
            for feed in self._feeds:
                await feed.endpoint.flush()
            self._is_taking = False
            if self._is_stopping:
                return

    async def _take(self, event: Event) -> None:
        match event:
            case Begin():
                self._share = self._progress.begin()
            case Commit():
                share = await self._end_transaction()
                if share is not None:
                    self._progress.end(share, event)
            case Gap():
                logger.error(
                    "webhooks may miss changes: %s, after %s",
                    event.reason.value,
                    event.after,
                    extra={
                        "event": "webhooks_gap",
                        "reason": event.reason.value,
                        "position": None if event.after is None else str(event.after),
                    },
                )
                # Part of a transaction may have been read: what there is goes out.
                share = await self._end_transaction()
                if share is not None:
                    self._progress.cut(share)
                for feed in self._feeds:
                    await feed.endpoint.flush()
                    feed.endpoint.note_gap()
            case LogicalMessage() | Idle():
                pass
            case _:
                await self._take_change(event)

    async def _take_change(self, change: Change) -> None:
        share, transaction = self._share, change.transaction
        # The rest of a transaction whose beginning a gap has taken is sent, too.
        if share is None:
            share = self._share = self._progress.begin()
        assert transaction is not None
        for row in row_payloads(change, self._plans):
            for feed in self._feeds:
                await feed.take(row, transaction, share)

    async def _end_transaction(self) -> Share | None:
        share, self._share = self._share, None
        if share is not None:
            for feed in self._feeds:
                await feed.end(share)
        return share


def make_webhooks(config: ServerConfig, *, others: Callable[[], SourceStats]) -> Webhooks:
    """Make the webhooks of a configuration, with their source.

    Args:
        config: the server's settings.
        others: returns the figures of the source that reads the database for clients. They show how
            far the WAL has grown while webhooks wait for an endpoint.

    Raises:
        ConfigError: if the webhooks cannot be served.
    """
    source = make_webhook_source(config)
    return Webhooks(config, source, source.enum_orders, others=others)


def _stats(feed: _Feed, now: float) -> EndpointStats:
    endpoint = feed.endpoint
    counts = endpoint.counts
    oldest = endpoint.oldest
    return EndpointStats(
        name=endpoint.name,
        delivered=counts.delivered,
        retries=counts.retries,
        dead=counts.dead,
        filter_errors=feed.rules.errors,
        waiting_bytes=endpoint.waiting_bytes,
        # Two machines' clocks may differ by more.
        oldest_seconds=0.0 if oldest is None else max(now - oldest, 0.0),
        disabled=endpoint.is_disabled,
    )


def open_dead_letters(config: ServerConfig) -> DeadLetters | None:
    path = config.webhook_dead_letters
    if path is None:
        return None
    letters = DeadLetters(path, config.webhook_dead_letters_max_mb * _MEGABYTE)
    try:
        letters.check()
    except OSError as exc:
        raise ConfigError(
            [
                f"WEBHOOK_DEAD_LETTERS is {path!r}, which cannot be written ({exc.strerror}); name "
                "a file that the server may write"
            ]
        ) from None
    return letters
