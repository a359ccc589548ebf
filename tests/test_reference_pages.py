"""The reference pages say what the code says."""

from __future__ import annotations

import re

import pytest

from realtime_core import GapReason, SourceStats
from realtime_server.fanout.hub import HubStats
from realtime_server.metrics import Metrics
from realtime_server.rls.channel_gaps import ChannelGapReason
from tests.error_reasons import close_codes, documented_codes, documented_reasons, reasons
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


ERRORS = "docs/reference/errors.md"
# These are put together from a reason in the list, or say nothing of it.
BY_GENERATION = {"error occurred when joining …", "InvalidJWTToken: …"}
# websockets itself gives these, or clients see them where there was no close frame.
NOT_OURS = {1006, 1009, 1011}


def test_every_reason_that_clients_are_given_is_documented() -> None:
    assert sorted(reasons() - documented_reasons(ERRORS)) == [], f"add these to {ERRORS}"


def test_every_documented_reason_exists() -> None:
    documented = documented_reasons(ERRORS) - BY_GENERATION
    assert sorted(documented - reasons()) == [], f"remove these from {ERRORS}"


def test_close_codes_are_those_that_are_documented() -> None:
    assert close_codes() | NOT_OURS == documented_codes(PROTOCOL)


METRICS = "docs/reference/metrics.md"


def test_metrics_are_those_that_are_documented() -> None:
    text = Metrics(stats=SourceStats, hub=HubStats, backlog=make_backlog()).render().decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    # Companions of others, as the page says.
    exposed = {(name, kind) for name, kind in types.items() if not name.endswith("_created")}
    page = (ROOT / METRICS).read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert documented == exposed
