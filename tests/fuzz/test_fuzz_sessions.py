"""The fuzz target runs, for as long as a test may, by a clock that is turned by hand.

It finds what takes long, what is left behind and what nobody catches, as is shown by making it so.
A long run, by the processor's clock, is started by hand.
"""

from __future__ import annotations

import pytest

from realtime_core import Change
from realtime_server.auth.grant import Grant
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.turns import Steps
from realtime_server.net.filter_limits import FilterAccount
from realtime_server.net.private_channels import Access, PrivateChannels
from realtime_server.phoenix.actions import Action
from realtime_server.phoenix.message_handler import SocketState
from realtime_server.phoenix.messages import Message
from tests.fuzz.fuzz_sessions import in_processes
from tests.fuzz.session_messages import EXPENSIVE
from tests.fuzz.session_report import Report
from tests.fuzz.session_run import run
from tests.fuzz.session_server import BrokenPromiseError

# Two of them take ten seconds, so that they begin early.
pytestmark = pytest.mark.slow


class Clock:
    """Goes on by 0.1 µs whenever somebody looks, and by what a test makes something take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-7
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def held(clock: Clock, tries: int, seed: int, expensive: float = EXPENSIVE) -> Report:
    return run(tries, seed, clock=clock, cpu=clock, expensive=expensive)


def test_sessions_of_all_kinds_end_well_and_leave_nothing_behind(clock: Clock) -> None:
    # More of those that are made to take long than a long run has.
    report = held(clock, 4_000, seed=2, expensive=0.03)
    assert report.tries == 4_000
    assert report.findings == []
    # It gets somewhere: neither all refused nor all taken.
    outcomes = report.outcomes
    for outcome in (
        *("joins ok", "joins refused", "joins config", "joins token", "joins topic"),
        *("connections_closed 1007", "connections_closed 1008", "connections_closed 1002"),
        "channels_ended refused",
    ):
        assert outcomes[outcome] > 2, outcomes
    assert report.changes > 400
    kinds = report.kinds
    for kind in ("join", "token", "torn", "binary", "odd frame", "join, deflated", "room join"):
        assert kinds[kind] > 30, kinds
    assert sum(count for kind, count in kinds.items() if kind.startswith("long ")) > 50


def test_the_same_seed_sends_the_same_messages() -> None:
    one, same, other = (held(Clock(), 500, seed) for seed in (3, 3, 4))
    assert (one.kinds, one.bytes, one.outcomes) == (same.kinds, same.bytes, same.outcomes)
    assert one.bytes != other.bytes


def test_processes_send_the_same_messages_together() -> None:
    alone = run(6_000, 3, clock=Clock(), cpu=Clock())
    *_, together = in_processes(2, 6_000, 3, expensive=EXPENSIVE, until=None)
    # Not the bytes: a token's signature may be another in each process, and so what it deflates to.
    assert (together.tries, together.sessions, together.changes) == (
        alone.tries,
        alone.sessions,
        alone.changes,
    )
    assert (together.kinds, together.outcomes) == (alone.kinds, alone.outcomes)
    assert sum(together.totals) == 6_000
    assert together.worst.keys() == alone.worst.keys()


def test_a_message_that_takes_long_each_time_is_found(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = SocketState.receive

    def slow(self: SocketState, data: str | bytes, message: Message | None = None) -> list[Action]:
        if isinstance(data, bytes):
            clock.now += 0.051
        return receive(self, data, message)

    monkeypatch.setattr(SocketState, "receive", slow)
    report = held(clock, 500, seed=5)
    assert {finding.sent.kind for finding in report.findings} == {"binary"}
    assert len(report.findings) == report.kinds["binary"]
    assert all(0.05 < finding.of_message.longest < 0.052 for finding in report.findings)


def test_a_message_after_which_a_change_takes_long_is_found(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = Hub.deliveries

    def slow(self: Hub, change: Change, *, filtered: bool = True) -> object:
        if self.stats().subscriptions:
            clock.now += 0.06
        return deliveries(self, change, filtered=filtered)

    monkeypatch.setattr(Hub, "deliveries", slow)
    report = held(clock, 500, seed=5)
    found = [finding for finding in report.findings if finding.where == "alone"]
    assert {finding.sent.is_join for finding in found} == {True}
    assert all(finding.of_message.total < 0.05 < finding.cost.total for finding in found)


def test_what_takes_long_once_is_no_finding(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = SocketState.receive
    # Others have joined before.
    slow_ones = iter([0.0, 0.0, 0.2, 0.2, 0.2])

    def slow_at_first(
        self: SocketState, data: str | bytes, message: Message | None = None
    ) -> list[Action]:
        clock.now += next(slow_ones, 0.0)
        return receive(self, data, message)

    monkeypatch.setattr(SocketState, "receive", slow_at_first)
    report = held(clock, 200, seed=5)
    assert (report.findings, report.once) == ([], 3)


def test_what_gives_way_takes_long_in_all_and_not_at_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing = Hub.publishing

    def in_steps(self: Hub, events: object) -> Steps:
        for _ in range(10):
            clock.now += 0.01
            yield 0.0
        yield from publishing(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(Hub, "publishing", in_steps)
    report = held(clock, 100, seed=5)
    finding = report.findings[0]
    assert finding.cost.total > 0.1
    assert finding.cost.longest < 0.02


def test_what_is_left_behind_is_shown(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FilterAccount, "refund", lambda self, topic: None)
    with pytest.raises(BrokenPromiseError, match="budget") as caught:
        held(clock, 300, seed=1)
    assert caught.value.__notes__ == ["seed 1, chunk 0"]


def test_who_hears_a_room_with_a_token_that_may_not_is_found(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unchanged(self: PrivateChannels, access: Access, grant: Grant) -> Access:
        await self._ask(access, access.asked, is_write=False)
        return access

    monkeypatch.setattr(PrivateChannels, "renewed", unchanged)
    with pytest.raises(BrokenPromiseError, match="may not hear"):
        held(clock, 2_000, seed=2, expensive=0.0)


def test_an_error_that_nobody_has_thought_of_is_shown(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive(self: SocketState, data: str | bytes, message: Message | None = None) -> object:
        raise KeyError("topic")

    monkeypatch.setattr(SocketState, "receive", receive)
    with pytest.raises(BrokenPromiseError) as caught:
        held(clock, 10, seed=1)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__notes__[-1] == "seed 1, chunk 0"
