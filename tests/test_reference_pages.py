"""The reference pages say what the code says."""

from __future__ import annotations

import pytest

from realtime_core import GapReason
from tests.log_events import LogEvent, documented_events, events
from tests.reference_pages import PARTS, ROOT, rewritten


@pytest.mark.parametrize("page", sorted({page for page, _ in PARTS}))
def test_a_generated_part_is_as_it_would_be_generated_now(page: str) -> None:
    told = "python -m tests.reference_pages writes it anew"
    assert (ROOT / page).read_text(encoding="utf-8") == rewritten(page), told


LOGS = "docs/reference/logs.md"


def test_every_log_line_is_documented() -> None:
    assert sorted(map(str, events() - documented_events(LOGS))) == [], f"add these to {LOGS}"


def test_every_documented_log_line_exists() -> None:
    assert sorted(map(str, documented_events(LOGS) - events())) == [], f"remove these from {LOGS}"


def test_log_lines_are_found_in_the_source() -> None:
    assert LogEvent("realtime.server", "INFO", "listening on …, port …") in events()
    assert len({event.logger for event in events()}) >= 4


PROTOCOL = "docs/reference/protocol.md"


def test_every_reason_of_a_gap_is_documented() -> None:
    text = (ROOT / PROTOCOL).read_text(encoding="utf-8")
    # The server keeps no checkpoint of its own.
    reasons = {reason.value for reason in GapReason} - {GapReason.START_BEHIND_SLOT.value}
    assert {reason for reason in reasons if f"| `{reason}` |" not in text} == set()
