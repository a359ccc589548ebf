"""Sessions with servers, one after the other, and what their messages cost.

:mod:`tests.fuzz.fuzz_sessions` says what is done.
"""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from realtime_core import Change
from tests.fuzz.session_loop import Cost, SessionLoop
from tests.fuzz.session_messages import EXPENSIVE, Sent, make_message
from tests.fuzz.session_report import MOST, Finding, Report, Setting
from tests.fuzz.session_server import BrokenPromiseError, TestedServer
from tests.fuzz.session_tables import long_changes, make_change
from tests.fuzz.session_witness import Witnesses

__all__ = ["run"]

_OUTCOMES: Final = ("joins", "channels_ended", "connections_closed", "limits")
"""Metrics that count what became of messages, without their prefix."""
CHUNK: Final = 2000
"""Messages with one server, at least; then nothing of them may be left."""
AGAIN: Final = 3
"""Times that a message is tried again that took too long."""


class Run:
    """Holds sessions.

    Args:
        seed: of the messages.
        clock: seconds.
        cpu: seconds of the processor's.
        expensive: the share of messages that are made to take long.
    """

    def __init__(
        self,
        seed: int,
        clock: Callable[[], float],
        cpu: Callable[[], float],
        expensive: float,
    ) -> None:
        self.report = Report()
        self._seed = seed
        self._expensive = expensive
        self._loop = SessionLoop(clock, cpu)
        # To look again at what took long.
        self._exact = SessionLoop(cpu)
        self._suspects: list[tuple[Setting, list[tuple[Sent, Sequence[Change]]], str]] = []

    def hold(self, tries: int, chunk: int) -> None:
        """Send at least so many messages, in sessions with one server.

        Raises:
            BrokenPromiseError: with the seed and the chunk that make the messages again.
        """
        random = Random(f"{self._seed} {chunk}")
        report = self.report
        goal = report.tries + tries
        try:
            with self._loop.running():
                server = TestedServer(self._loop)
                try:
                    self._sessions(random, server, chunk, goal)
                except BaseException:
                    server.abandon()
                    raise
                server.check_nothing_is_left()
                self._count(server)
            with self._exact.running():
                for suspect in self._suspects:
                    self._judge(*suspect)
                self._suspects.clear()
        except BrokenPromiseError as error:
            error.add_note(f"seed {self._seed}, chunk {chunk}")
            raise
        gc.collect()

    def _sessions(self, random: Random, server: TestedServer, chunk: int, goal: int) -> None:
        witnesses = Witnesses(server)
        # Chance of its own, so that the messages are the same whatever is asked.
        server.policies.chance = Random(f"policies {self._seed} {chunk}")
        while self.report.tries < goal:
            self._session(random, server, witnesses, goal)
            gc.collect(0)
        witnesses.end()

    def _session(
        self, random: Random, server: TestedServer, witnesses: Witnesses, goal: int
    ) -> None:
        report = self.report
        setting = Setting.choose(random)
        session = setting.session(server)
        server.policies.begin()
        report.sessions += 1
        sent: list[tuple[Sent, Sequence[Change]]] = []
        try:
            for _ in range(random.choice((10, 30, 60))):
                if not session.is_open or report.tries >= goal:
                    break
                message = make_message(
                    random,
                    setting.vsn,
                    is_deflating=setting.is_deflating,
                    is_talking=setting.is_talking,
                    expensive=self._expensive,
                )
                changes = _changes_after(random, message)
                sent.append((message, changes))
                cost = session.send(message.data)
                if changes:
                    cost += server.publish(changes)
                    report.changes += len(changes)
                if random.random() < 0.2:
                    witnesses.whisper()
                witnesses.check()
                report.note(message, cost)
                if _is_long(message, cost):
                    self._suspects.append((setting, sent.copy(), "in its session"))
                # Most rates are refilled meanwhile; now and then tokens expire, or it was idle.
                session.wait(random.choice((0.0, 6.0, 6.0, 6.0, 6.0, 40.0)))
            session.end()
            witnesses.check()
            witnesses.check_ended(session)
        except BrokenPromiseError as error:
            shown = [message.data[:2000] for message, _ in sent[-3:]]
            error.add_note(f"{setting}, message {len(sent)}; the last ones: {shown!r}")
            raise

    def _judge(
        self, setting: Setting, sent: list[tuple[Sent, Sequence[Change]]], where: str
    ) -> None:
        """Try what took too long again: alone, and as the last of its session."""
        message, changes = sent[-1]
        alone = [self._again(setting, sent[-1:]) for _ in range(AGAIN)]
        finding = _least(setting, message, changes, alone, "alone")
        if not finding.is_too_much:
            behind = [self._again(setting, sent) for _ in range(AGAIN)]
            # What others have joined before costs with each change, whoever comes last.
            own = [(of_message, of_message) for of_message, _ in behind]
            finding = _least(setting, message, changes, own, where)
        if finding.is_too_much:
            self.report.findings.append(finding)
        else:
            self.report.once += 1

    def _again(
        self, setting: Setting, sent: list[tuple[Sent, Sequence[Change]]]
    ) -> tuple[Cost, Cost]:
        """Return what the last message costs, without its change and with it."""
        gc.collect()
        server = TestedServer(self._exact)
        # So that nothing that is done once for a table counts as the message's.
        server.publish(long_changes()[:1])
        session = setting.session(server)
        own = both = Cost()
        for message, changes in sent:
            own = session.send(message.data)
            both = own + server.publish(changes)
            session.wait(6.0)
        session.end()
        return own, both

    def _count(self, server: TestedServer) -> None:
        outcomes = self.report.outcomes
        outcomes.update(server.happened)
        for family in text_string_to_metric_families(server.metrics.render().decode()):
            name = family.name.removeprefix("realtime_")
            if name not in _OUTCOMES:
                continue
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    (label,) = sample.labels.values()
                    outcomes[f"{name} {label}"] += int(sample.value)


def run(
    tries: int,
    seed: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.thread_time,
    expensive: float = EXPENSIVE,
    chunks: range | None = None,
    until: float | None = None,
    note: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Send so many messages; return what became of them.

    Args:
        tries: messages.
        seed: of the messages.
        clock: seconds.
        cpu: seconds of the processor's.
        expensive: the share of messages that are made to take long.
        chunks: the numbers of those that are sent, which with the seed make the messages; None: all
            from 0 on. They end when there are enough tries.
        until: when to stop early, by time.monotonic().
        note: is given the report from time to time.

    Raises:
        BrokenPromiseError: with the seed and the chunk that make the messages again.
    """
    held = Run(seed, clock, cpu, expensive)
    with _quiet():
        for chunk in itertools.count() if chunks is None else chunks:
            if held.report.tries >= tries or (until is not None and time.monotonic() > until):
                break
            held.hold(min(CHUNK, tries - held.report.tries), chunk)
            note(held.report)
    return held.report


def _changes_after(random: Random, message: Sent) -> Sequence[Change]:
    if message.is_expensive:
        return (random.choice(long_changes()),)
    if random.random() < (0.3 if message.is_join else 0.05):
        return (make_change(random),)
    return ()


def _is_long(message: Sent, cost: Cost) -> bool:
    return (cost.longest if message.is_many else cost.total) > MOST


def _least(
    setting: Setting,
    message: Sent,
    changes: Sequence[Change],
    tries: list[tuple[Cost, Cost]],
    where: str,
) -> Finding:
    own, both = (
        Cost(min(cost.total for cost in costs), min(cost.longest for cost in costs))
        for costs in zip(*tries, strict=True)
    )
    return Finding(setting, message, changes, both, own, where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Log as a server does, to nowhere; collect garbage when nobody looks at the clock."""
    logger = logging.getLogger("realtime")
    handler = logging.NullHandler()
    before = logger.level, logger.propagate, gc.isenabled()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        if before[2]:
            gc.enable()
