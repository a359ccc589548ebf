"""The reference pages say what the code says."""

from __future__ import annotations

import re

import pytest

from realtime_core import GapReason, SourceStats
from realtime_server.fanout.hub import HubStats
from realtime_server.metrics import Metrics
from realtime_server.phoenix.reasons import CloseReason, Reason
from realtime_server.rls.channel_gaps import ChannelGapReason
from tests.log_events import LogEvent, documented_events, events
from tests.reference_pages import PARTS, ROOT, rewritten
from tests.server_helpers import make_backlog


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
    reasons = {reason.value for reason in (*GapReason, *ChannelGapReason)}
    reasons.remove(GapReason.START_BEHIND_SLOT.value)
    assert {reason for reason in reasons if f"| `{reason}` |" not in text} == set()


def test_every_reason_in_the_tables_is_given_somewhere() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "realtime_server").rglob("*.py"))
    unused = [
        str(reason)
        for reasons in Reason.__subclasses__()
        for reason in reasons
        if re.search(rf"\b{re.escape(str(reason))}\b", source) is None
    ]
    assert unused == []


# websockets itself gives these, or clients see them where there was no close frame.
NOT_OURS = {1006, 1009, 1011}


def test_close_codes_are_those_that_are_documented() -> None:
    text = (ROOT / PROTOCOL).read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE)}
    assert {reason.code for reason in CloseReason} | NOT_OURS == documented


METRICS = "docs/reference/metrics.md"


def test_metrics_are_those_that_are_documented() -> None:
    text = Metrics(stats=SourceStats, hub=HubStats, backlog=make_backlog()).render().decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    # Companions of others, as the page says.
    exposed = {(name, kind) for name, kind in types.items() if not name.endswith("_created")}
    page = (ROOT / METRICS).read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert documented == exposed
