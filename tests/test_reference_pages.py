"""The reference pages say what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from realtime_core import GapReason, SourceStats
from realtime_server.cluster.stats import ClusterStats
from realtime_server.config import ConfigurationFile, ServerConfig, variables
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.metrics import Metrics
from realtime_server.phoenix.reasons import CloseReason, Reason
from realtime_server.rls.channel_gaps import ChannelGapReason
from realtime_server.workers.stats import WorkerStats
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


@pytest.mark.slow
def test_every_documented_log_line_exists() -> None:
    assert sorted(map(str, documented_events(LOGS) - events())) == [], f"remove these from {LOGS}"


def test_log_lines_are_found_in_the_source() -> None:
    assert LogEvent("realtime.server", "INFO", "listening on …, port …") in events()
    assert len({event.logger for event in events()}) >= 4


PROTOCOL = "docs/reference/protocol.md"


def test_every_reason_of_a_gap_is_documented() -> None:
    text = (ROOT / PROTOCOL).read_text(encoding="utf-8")
    reasons = {reason.value for reason in (*GapReason, *ChannelGapReason)}
    assert {reason for reason in reasons if f"| `{reason}` |" not in text} == set()


@pytest.mark.slow
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
    metrics = Metrics(
        stats=SourceStats,
        hub=HubStats,
        backlog=make_backlog(),
        workers=WorkerStats,
        cluster=ClusterStats,
    )
    text = metrics.render().decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    # Companions of others, as the page says.
    exposed = {(name, kind) for name, kind in types.items() if not name.endswith("_created")}
    page = (ROOT / METRICS).read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert documented == exposed


MIGRATION = "docs/howto/migrate.md"
# What Supabase Realtime 1 reads, with the defaults of its release, as its README, its
# config/releases.exs and its config/runtime.exs have them. "set" is a default that nobody needs.
ORIGINAL = json.loads((ROOT / "tests/original_environment.json").read_text(encoding="utf-8"))
UNREAD = {"HOSTNAME", "LOGFLARE_API_KEY", "LOGFLARE_SOURCE_ID", "SESSION_SECRET_KEY_BASE"}


def migration_section(heading: str) -> str:
    page = (ROOT / MIGRATION).read_text(encoding="utf-8")
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return str(section)


def test_every_variable_of_the_original_is_compared_with_ours() -> None:
    section = migration_section("Every variable")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", section, re.MULTILINE)
    there = {name: value.strip("`") for name, value, _ in rows}
    assert len(there) == len(rows)
    assert there == ORIGINAL
    here = {name: value.strip("`") for name, _, value in rows}
    ours = {variable.name: variable.default or "unset" for variable in variables()}
    assert ours.keys() & UNREAD == set()
    assert here == {name: "not read" if name in UNREAD else ours[name] for name in ORIGINAL}


def test_every_variable_that_may_be_a_file_is_in_the_migration_guide() -> None:
    section = migration_section("Secrets in files")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", section, re.MULTILINE)
    secrets = {variable.name for variable in variables() if variable.secret}
    assert {*rows} == {(name, f"{name}_FILE") for name in secrets}


def test_the_migration_guide_has_every_slot_and_the_longest_name() -> None:
    section = migration_section("Slots and rights")
    settings = ServerConfig(
        secure_channels=False, slot_name="x", replay_wal_mb=1, replay_secret="s" * 32
    )
    slots = [str(settings.replay_slot), str(settings.webhook_slot)]
    assert [name for name in slots if f"`<SLOT_NAME>{name[1:]}`" not in section] == []
    longest = max(len(name) - 1 for name in slots)
    assert f"so `SLOT_NAME` may have {63 - longest}." in " ".join(section.split())


def test_the_migration_guide_has_every_key_of_a_webhook(tmp_path: Path) -> None:
    webhook = {"config": {"endpoint": "https://example.org/"}, "none": 1}
    file = tmp_path / "configuration.json"
    file.write_text(json.dumps({"webhooks": [webhook]}))
    with pytest.raises(ValueError, match="has the key 'none'") as caught:
        ConfigurationFile.read(str(file))
    keys = str(caught.value).partition("; use ")[2].split(", ")
    listed = ", ".join(f"`{key}`" for key in keys)
    assert f"The keys are {listed} |" in migration_section("The configuration file")


SUPPORT = "docs/project/support.md"


def test_the_support_policy_names_the_versions_that_the_package_does() -> None:
    page = (ROOT / SUPPORT).read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "| PostgreSQL | 14 to 18 |" in page
    minors = re.findall(r"Python :: 3\.(\d+)", " ".join(project["classifiers"]))
    assert f"| CPython | 3.{minors[0]} to 3.{minors[-1]} |" in page
    assert project["requires-python"] == f">=3.{minors[0]}"


ARCHITECTURE = "docs/project/architecture.md"


def test_the_architecture_names_every_module_that_has_findings_for_check() -> None:
    page = (ROOT / ARCHITECTURE).read_text(encoding="utf-8")
    [row] = re.findall(r"^\| what `--check` says \| (.*) \|$", page, re.MULTILINE)
    modules = {
        path.relative_to(ROOT / "realtime_server").as_posix()
        for path in (ROOT / "realtime_server").rglob("*.py")
        if re.search(r"^async def \w+_findings\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(modules) >= 4
    assert [module for module in sorted(modules) if f"`{module}`" not in row] == []
