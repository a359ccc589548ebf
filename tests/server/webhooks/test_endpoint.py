"""Endpoint: order, attempts, pauses, and what becomes of what cannot be delivered."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from realtime_server.config import Webhook, WhenFull
from realtime_server.webhooks import request as request_module
from realtime_server.webhooks.client import Answer, UnreachableError
from realtime_server.webhooks.dead_letters import DeadLetters
from realtime_server.webhooks.endpoint import Endpoint
from realtime_server.webhooks.request import Request
from tests.server_helpers import open_config
from tests.stopped_clock import StoppedClock, stop_the_clock

URL = "https://user:password@example.org/secret-path"
NOW = 1795845600.0


class Network:
    """Answers as it is told, with 200 if it is told nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, str], bytes]] = []
        self.answers: list[Answer | str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.at_once = 0

    def will_answer(self, *answers: int | str | Answer) -> None:
        """A text is why there is no answer."""
        self.answers += [Answer(each) if isinstance(each, int) else each for each in answers]

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.sent.append((url, headers, body))
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        answer = self.answers.pop(0) if self.answers else Answer(200)
        if isinstance(answer, str):
            raise UnreachableError(answer)
        return answer

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.sent]


class Stage:
    """An endpoint with all that is around it."""

    def __init__(self, path: Path, clock: StoppedClock) -> None:
        self.path = path
        self.clock = clock
        self.network = Network()
        self.done: list[str] = []

    @contextlib.asynccontextmanager
    async def endpoint(self, *, letters: bool = True, **settings: Any) -> AsyncIterator[Endpoint]:
        config = open_config(**settings)
        kept = DeadLetters(str(self.path), config.webhook_dead_letters_max_mb * 1_000_000)
        endpoint = Endpoint(
            Webhook(URL, name="audit"),
            config,
            self.network.post,
            kept if letters else None,
            clock=lambda: NOW,
            chance=lambda: 0.0,
        )
        running = asyncio.create_task(endpoint.run())
        try:
            yield endpoint
        finally:
            endpoint.stop()
            self.network.gate.set()
            await running

    def request(self, number: int, size: int = 2) -> Request:
        name = f"msg_{number}"
        return Request(
            name,
            f"0/{number}:0",
            b'"%s"' % (b"x" * (size - 2)),
            1,
            True,
            NOW - 10 + number,
            lambda: self.done.append(name),
        )

    def dead(self) -> list[tuple[str, int, str]]:
        if not self.path.exists():
            return []
        found = [letter for _, letter in DeadLetters(str(self.path)).read()]
        return [(each.request.id, each.attempts, each.reason) for each in found if each]


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path / "dead.jsonl", stop_the_clock(monkeypatch))


async def settle(seconds: float = 0, clock: StoppedClock | None = None) -> None:
    """Let what can happen now happen."""
    if clock is not None:
        await clock.pass_by(seconds)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_requests_are_sent_in_order_one_at_a_time(stage: Stage) -> None:
    async with stage.endpoint() as endpoint:
        for number in range(5):
            await endpoint.put(stage.request(number, 10 + number))
        await settle()
        assert [len(body) for body in stage.network.bodies] == [10, 11, 12, 13, 14]
        assert stage.network.at_once == 1
        assert stage.done == [f"msg_{number}" for number in range(5)]
        assert (endpoint.counts.delivered, endpoint.counts.retries) == (5, 0)
        assert (endpoint.waiting_bytes, endpoint.oldest) == (0, None)


async def test_a_request_that_fails_holds_those_behind_it(stage: Stage) -> None:
    stage.network.will_answer(500, "connection refused", 503)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1, 10))
        await endpoint.put(stage.request(2, 20))
        await settle()
        assert [len(body) for body in stage.network.bodies] == [10]
        assert endpoint.oldest == NOW - 9
        # 1 s, 2 s, 4 s.
        for seconds, attempts in ((0.9, 1), (0.2, 2), (1.8, 2), (0.3, 3), (3.8, 3)):
            await settle(seconds, stage.clock)
            assert len(stage.network.sent) == attempts
        await settle(0.3, stage.clock)
        assert [len(body) for body in stage.network.bodies] == [10, 10, 10, 10, 20]
        assert stage.done == ["msg_1", "msg_2"]
        assert (endpoint.counts.delivered, endpoint.counts.retries) == (2, 3)
        assert stage.dead() == []


async def test_each_attempt_has_the_same_id_and_its_own_time(stage: Stage) -> None:
    stage.network.will_answer(500)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await settle()
        await settle(1.1, stage.clock)
        (url, first, _), (_, second, _) = stage.network.sent
        assert url == URL
        assert first["webhook-id"] == second["webhook-id"] == second["idempotency-key"] == "msg_1"
        assert first["webhook-timestamp"] == str(int(NOW))


@pytest.mark.parametrize(
    ("asked_for", "seconds"),
    [
        ("30", 30),
        ("Sat, 28 Nov 2026 06:00:20 GMT", 20),
        # Longer than any pause of ours.
        ("1800", 1800),
        ("86400", 3600),
    ],
)
async def test_retry_after_is_honoured_up_to_a_bound(
    stage: Stage, asked_for: str, seconds: float
) -> None:
    stage.network.will_answer(Answer(429, asked_for))
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await settle()
        await settle(seconds - 0.1, stage.clock)
        assert len(stage.network.sent) == 1
        await settle(0.2, stage.clock)
        assert stage.done == ["msg_1"]


async def passes(stage: Stage, *, until: int) -> None:
    """Let time pass until so many requests are done: files take real time."""
    while len(stage.done) < until:
        await stage.clock.pass_by(0.5)


async def test_the_last_attempt_goes_to_the_dead_letters(stage: Stage) -> None:
    stage.network.will_answer(500, 502, "no answer within 5 s")
    async with stage.endpoint(webhook_max_attempts=3) as endpoint:
        await endpoint.put(stage.request(1))
        await endpoint.put(stage.request(2))
        await passes(stage, until=2)
        assert stage.dead() == [("msg_1", 3, "no answer within 5 s")]
        assert (endpoint.counts.dead, endpoint.counts.delivered) == (1, 1)
        assert endpoint.counts.retries == 2


async def test_without_a_bound_it_is_tried_on_and_on(stage: Stage) -> None:
    stage.network.will_answer(*[500] * 30)
    async with stage.endpoint(webhook_max_attempts=0) as endpoint:
        await endpoint.put(stage.request(1))
        await passes(stage, until=1)
        assert (endpoint.counts.retries, endpoint.counts.dead) == (30, 0)


async def test_the_bound_of_retry_after_can_be_set(stage: Stage) -> None:
    stage.network.will_answer(Answer(503, "86400"))
    async with stage.endpoint(webhook_retry_after_max=90_000) as endpoint:
        await endpoint.put(stage.request(1))
        await settle()
        await settle(89, stage.clock)
        assert len(stage.network.sent) == 1
        await settle(1.1, stage.clock)
        assert stage.done == ["msg_1"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "status 400"),
        (404, "status 404"),
        (422, "status 422"),
        (302, "status 302, a redirect, which is not followed"),
    ],
)
async def test_what_never_will_be_taken_is_given_up_at_once(
    stage: Stage, status: int, reason: str
) -> None:
    stage.network.will_answer(status)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await endpoint.put(stage.request(2))
        await passes(stage, until=2)
        assert stage.dead() == [("msg_1", 1, reason)]
        assert len(stage.network.sent) == 2


async def test_it_is_in_the_dead_letters_before_it_is_done(stage: Stage) -> None:
    stage.network.will_answer(400)
    seen: list[list[tuple[str, int, str]]] = []
    request = Request("msg_1", "0/1:0", b"1", 1, True, NOW, lambda: seen.append(stage.dead()))
    async with stage.endpoint() as endpoint:
        await endpoint.put(request)
        await eventually_now(lambda: seen)
    assert seen == [[("msg_1", 1, "status 400")]]


async def eventually_now(condition: Any) -> None:
    while not condition():
        await settle()


async def test_an_endpoint_that_is_gone_gets_nothing_more(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.network.will_answer(410)
    stage.network.gate.clear()
    async with stage.endpoint(webhook_waiting_bytes=2500) as endpoint:
        for number in (1, 2):
            await endpoint.put(stage.request(number))
        # It waits for room.
        held = asyncio.create_task(endpoint.put(stage.request(3)))
        await settle()
        assert not held.done()
        stage.network.gate.set()
        await held
        await passes(stage, until=3)
        await endpoint.put(stage.request(4))
        await passes(stage, until=4)
        assert stage.done == ["msg_1", "msg_2", "msg_3", "msg_4"]
        assert endpoint.is_disabled
        assert len(stage.network.sent) == 1
        # Nothing is lost, and the order is kept.
        later = [(f"msg_{number}", 0, "the endpoint is gone") for number in (2, 3, 4)]
        assert stage.dead() == [("msg_1", 1, "status 410"), *later]
        assert endpoint.counts.dead == 4
    assert (
        "webhook 'audit': its endpoint is gone (status 410); nothing is sent to it any more until "
        "the server is started again" in caplog.messages
    )


async def test_what_an_endpoint_that_is_gone_does_not_get_does_not_pile_up(stage: Stage) -> None:
    stage.network.will_answer(410)
    async with stage.endpoint(webhook_waiting_bytes=250_000) as endpoint:
        await endpoint.put(stage.request(0))
        await passes(stage, until=1)
        for number in range(1, 30):
            await endpoint.put(stage.request(number, 100_000))
            assert endpoint.waiting_bytes <= 250_000
        await passes(stage, until=30)
    assert [name for name, _, _ in stage.dead()] == [f"msg_{number}" for number in range(30)]


async def test_a_large_body_is_signed_by_a_thread(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets would wait as long as that takes."""
    signers: dict[int, int] = {}

    def sign(secrets: object, message_id: str, timestamp: int, body: bytes) -> str:
        signers[len(body)] = threading.get_ident()
        return "v1,x"

    monkeypatch.setattr(request_module, "sign", sign)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1, 1000))
        await endpoint.put(stage.request(2, 1_000_000))
        await passes(stage, until=2)
    ours = threading.get_ident()
    assert (signers[1000] == ours, signers[1_000_000] == ours) == (True, False)


# What waits.


async def test_hold_lets_whoever_brings_more_wait(stage: Stage) -> None:
    stage.network.gate.clear()
    async with stage.endpoint(webhook_waiting_bytes=5000) as endpoint:
        put = [asyncio.create_task(endpoint.put(stage.request(n, 1000))) for n in range(2)]
        await settle()
        assert all(task.done() for task in put)
        assert endpoint.waiting_bytes == 4000
        late = asyncio.create_task(endpoint.put(stage.request(2, 1000)))
        await settle()
        assert not late.done()
        assert endpoint.waiting_bytes <= 5000
        stage.network.gate.set()
        await settle()
        assert late.done()
        assert stage.done == ["msg_0", "msg_1", "msg_2"]


async def test_one_request_has_room_however_large_it_is(stage: Stage) -> None:
    async with stage.endpoint(webhook_waiting_bytes=1024) as endpoint:
        await endpoint.put(stage.request(1, 100_000))
        await settle()
        assert stage.done == ["msg_1"]


async def test_drop_puts_what_has_no_room_into_the_dead_letters(stage: Stage) -> None:
    stage.network.gate.clear()
    settings = {"webhook_waiting_bytes": 5000, "webhook_when_full": WhenFull.DROP}
    async with stage.endpoint(**settings) as endpoint:
        for number in range(5):
            await endpoint.put(stage.request(number, 1000))
        assert stage.dead() == []
        await endpoint.flush()
        assert stage.dead() == [(f"msg_{n}", 0, "too much waits already") for n in (2, 3, 4)]
        assert stage.done == ["msg_2", "msg_3", "msg_4"]
        assert endpoint.counts.dead == 3
        stage.network.gate.set()
        await settle()
        assert stage.done[3:] == ["msg_0", "msg_1"]


async def test_what_is_dropped_does_not_pile_up(stage: Stage) -> None:
    stage.network.gate.clear()
    settings = {"webhook_waiting_bytes": 1024, "webhook_when_full": WhenFull.DROP}
    async with stage.endpoint(**settings) as endpoint:
        for number in range(30):
            await endpoint.put(stage.request(number, 100_000))
        assert len(stage.done) >= 20


# Where there are no dead letters, or they cannot be written.


async def test_without_dead_letters_it_is_lost_and_said(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.network.will_answer(400)
    async with stage.endpoint(letters=False) as endpoint:
        await endpoint.put(stage.request(1))
        await settle()
        assert stage.done == ["msg_1"]
        assert endpoint.counts.dead == 1
    (line,) = caplog.messages
    assert line == (
        "webhook 'audit': the request at 0/1:0 is given up (status 400), and lost, as there is no "
        "WEBHOOK_DEAD_LETTERS; requests given up since the last such line: 1"
    )


async def test_hold_gives_nothing_up_that_cannot_be_kept(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(*[400] * 3)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await passes(stage, until=1)
        assert (endpoint.counts.dead, endpoint.counts.delivered) == (0, 1)
    assert len(stage.network.sent) == 4
    assert (
        "webhook 'audit': the dead letters cannot be written (Is a directory); the request is "
        "kept" in caplog.messages
    )


async def test_hold_gives_nothing_up_though_the_endpoint_is_gone_and_the_dead_letters_are_full(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    full = "x" * 1_000_000
    stage.path.write_text(f"{full}\n")
    stage.network.will_answer(410)
    settings = {"webhook_dead_letters_max_mb": 1, "webhook_waiting_bytes": 2500}
    async with stage.endpoint(**settings) as endpoint:
        for number in (1, 2):
            await endpoint.put(stage.request(number))
        held = asyncio.create_task(endpoint.put(stage.request(3)))
        while not endpoint.is_disabled:
            await settle(0.5, stage.clock)
        # Files take real time.
        while not any("the dead letters cannot be written" in line for line in caplog.messages):
            await settle(0.5, stage.clock)
        await settle(300, stage.clock)
        assert stage.path.read_text() == f"{full}\n"
        assert not held.done()
        assert (stage.done, endpoint.counts.dead) == ([], 0)
        # Somebody takes the file away: all of them get into the new one, in order.
        stage.path.unlink()
        await passes(stage, until=3)
        await endpoint.put(stage.request(4))
        await passes(stage, until=4)
    assert stage.done == ["msg_1", "msg_2", "msg_3", "msg_4"]
    assert len(stage.network.sent) == 1
    later = [(f"msg_{number}", 0, "the endpoint is gone") for number in (2, 3, 4)]
    assert stage.dead() == [("msg_1", 1, "status 410"), *later]
    assert (
        f"webhook 'audit': the dead letters cannot be written ({stage.path} may have 1000000 "
        "bytes, and has 1000001); the request is kept" in caplog.messages
    )
    # A moment may pass before the endpoint answers, so the line may name either.
    assert any("; nothing more is read for webhooks" in line for line in caplog.messages)


async def test_hold_keeps_at_a_stop_what_an_endpoint_that_is_gone_did_not_get(
    stage: Stage,
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(410)
    async with stage.endpoint() as endpoint:
        for number in (1, 2):
            await endpoint.put(stage.request(number))
        while not endpoint.is_disabled:
            await settle()
        await endpoint.put(stage.request(3))
        endpoint.stop()
        await settle()
        await endpoint.give_up_rest("the server was stopped", only_before_gap=True)
    # The permanent slot has all of them for the next start.
    assert stage.done == []


async def test_drop_loses_what_an_endpoint_that_is_gone_did_not_get_if_it_cannot_be_kept(
    stage: Stage,
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(410)
    async with stage.endpoint(webhook_when_full=WhenFull.DROP) as endpoint:
        await endpoint.put(stage.request(1))
        await passes(stage, until=1)
        await endpoint.put(stage.request(2))
        await endpoint.flush()
    assert stage.done == ["msg_1", "msg_2"]
    assert endpoint.counts.dead == 2


async def test_what_could_not_be_kept_at_the_last_attempt_is_kept_at_a_later_one(
    stage: Stage,
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(*[500] * 6)
    async with stage.endpoint(webhook_max_attempts=2) as endpoint:
        await endpoint.put(stage.request(1))
        while len(stage.network.sent) < 3:
            await stage.clock.pass_by(0.5)
        stage.path.rmdir()
        await passes(stage, until=1)
        assert endpoint.counts.dead == 1
    ((name, attempts, _),) = stage.dead()
    assert name == "msg_1"
    assert 3 <= attempts <= 6


async def test_drop_loses_what_cannot_be_kept(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(400)
    async with stage.endpoint(webhook_when_full=WhenFull.DROP) as endpoint:
        await endpoint.put(stage.request(1))
        await passes(stage, until=1)
        assert endpoint.counts.dead == 1
    assert any("and lost;" in line for line in caplog.messages)


# Stopping, and the log.


async def test_a_stop_lets_the_attempt_end_that_is_under_way(stage: Stage) -> None:
    stage.network.gate.clear()
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await endpoint.put(stage.request(2))
        await settle()
        endpoint.stop()
        stage.network.gate.set()
        await settle()
        assert stage.done == ["msg_1"]
        assert len(stage.network.sent) == 1


async def test_a_stop_ends_a_pause(stage: Stage) -> None:
    stage.network.will_answer(500)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await settle()
        endpoint.stop()
        await settle()
    # It did not wait, although the clock stands still; and the request is not done.
    assert stage.done == []
    assert len(stage.network.sent) == 1
    assert stage.dead() == []


async def test_what_is_left_can_be_given_up(stage: Stage) -> None:
    stage.network.gate.clear()
    settings = {"webhook_waiting_bytes": 4000, "webhook_when_full": WhenFull.DROP}
    async with stage.endpoint(**settings) as endpoint:
        for number in range(4):
            await endpoint.put(stage.request(number, 500))
        await settle()
        endpoint.stop()
        stage.network.gate.set()
        await settle()
        await endpoint.give_up_rest("the server was stopped")
    assert stage.done == ["msg_0", "msg_1", "msg_2", "msg_3"]
    assert stage.dead()[0] == ("msg_1", 0, "the server was stopped")


async def test_at_a_stop_only_what_is_before_a_gap_is_given_up_if_the_rest_is_read_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.network.gate.clear()
    async with stage.endpoint() as endpoint:
        for number in range(4):
            await endpoint.put(stage.request(number))
        endpoint.note_gap()
        await endpoint.put(stage.request(4))
        await settle()
        endpoint.stop()
        stage.network.gate.set()
        await settle()
        await endpoint.give_up_rest("the server was stopped", only_before_gap=True)
    assert stage.done == ["msg_0", "msg_1", "msg_2", "msg_3"]
    assert [name for name, _, _ in stage.dead()] == ["msg_1", "msg_2", "msg_3"]
    (line,) = (line for line in caplog.messages if "is given up" in line)
    assert line.endswith("; requests given up since the last such line: 3")


async def test_at_a_stop_what_could_not_be_kept_is_not_done_if_it_may_be_read_again(
    stage: Stage,
) -> None:
    stage.path.mkdir()
    stage.network.will_answer(500)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        endpoint.note_gap()
        await settle()
        endpoint.stop()
        await settle()
        await endpoint.give_up_rest("the server was stopped", only_before_gap=True)
    assert stage.done == []


async def test_a_stop_lets_nobody_wait_for_room(stage: Stage) -> None:
    stage.network.gate.clear()
    async with stage.endpoint(webhook_waiting_bytes=1024) as endpoint:
        await endpoint.put(stage.request(1))
        held = asyncio.create_task(endpoint.put(stage.request(2)))
        await settle()
        assert not held.done()
        endpoint.stop()
        await settle()
        assert held.done()
        stage.network.gate.set()
        await settle()
        await endpoint.give_up_rest("the server was stopped")
    assert stage.dead() == [("msg_2", 0, "the server was stopped")]


async def test_a_failing_endpoint_is_said_once_and_when_it_works_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stage.network.will_answer(500, 500, 200, 500)
    async with stage.endpoint() as endpoint:
        for number in range(3):
            await endpoint.put(stage.request(number))
        await passes(stage, until=3)
    assert caplog.messages == [
        "webhook 'audit': status 500; it is tried again",
        "webhook 'audit': its endpoint takes requests again",
        "webhook 'audit': status 500; it is tried again",
        "webhook 'audit': its endpoint takes requests again",
    ]


async def test_many_that_are_given_up_are_said_together(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.network.will_answer(*[400] * 50)
    async with stage.endpoint() as endpoint:
        for number in range(50):
            await endpoint.put(stage.request(number))
        await passes(stage, until=50)
        assert endpoint.counts.dead == 50
    assert len(caplog.messages) == 1


async def test_no_line_has_the_url_or_a_body(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    stage.network.will_answer(500, 302, 404, "x", 410)
    async with stage.endpoint() as endpoint:
        for number in range(4):
            await endpoint.put(stage.request(number))
        await passes(stage, until=4)
    for secret in ("password", "example.org", "secret-path", "xx"):
        assert secret not in caplog.text


async def test_an_unexpected_error_is_logged_and_does_not_end_the_deliveries(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: Any) -> Answer:
        raise ValueError("no answer that anybody has foreseen")

    good = stage.network.post
    posts = [fail, good]

    async def post(*args: Any) -> Answer:
        return await posts.pop(0)(*args)

    monkeypatch.setattr(stage.network, "post", post)
    async with stage.endpoint() as endpoint:
        await endpoint.put(stage.request(1))
        await settle(0, stage.clock)
        await settle(60, stage.clock)
        assert stage.done == ["msg_1"]
    assert "a bug in realtime_server" in caplog.text
