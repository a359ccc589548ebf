"""Retries: statuses, Retry-After and pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from realtime_server.webhooks.retries import Verdict, pause, retry_after, verdict_on

# 2026-11-28T06:00:00Z
NOW = 1795845600.0


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be far from Greenwich."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((200, 201, 202, 204, 299), Verdict.DONE),
        ((408, 425, 429, 500, 502, 503, 504, 599), Verdict.AGAIN),
        ((410,), Verdict.GONE),
        ((300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 413, 422, 499), Verdict.GIVEN_UP),
    ],
)
def test_a_status_decides(statuses: tuple[int, ...], verdict: Verdict) -> None:
    assert {status: verdict_on(status) for status in statuses} == dict.fromkeys(statuses, verdict)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("Sat, 28 Nov 2026 06:00:30 GMT", 30),
        ("Saturday, 28-Nov-26 06:00:30 GMT", 30),
        ("Sat Nov 28 06:00:30 2026", 30),
        ("Sat, 28 Nov 2026 05:59:00 GMT", 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("१२", 0),
        ("9" * 400, 0),
        ("Sat, 99 Nov 2026 06:00:30 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float, zone: None) -> None:
    assert retry_after(text, NOW) == seconds


def test_pauses_double_up_to_a_bound() -> None:
    pauses = [
        pause(failures, least=1, most=10, asked_for=0, random=0) for failures in (1, 2, 3, 4, 5, 9)
    ]
    assert pauses == [1, 2, 4, 8, 10, 10]
    assert pause(10_000, least=0.1, most=60, asked_for=0, random=0) == 60


def test_up_to_a_half_is_taken_off_by_chance() -> None:
    assert pause(3, least=1, most=60, asked_for=0, random=1) == 2
    assert pause(3, least=1, most=60, asked_for=0, random=0.5) == 3


def test_what_is_asked_for_is_waited_for() -> None:
    assert pause(1, least=1, most=60, asked_for=30, random=1) == 30
    assert pause(1, least=1, most=60, asked_for=3600, random=1) == 3600
    assert pause(5, least=1, most=60, asked_for=2, random=0) == 16
