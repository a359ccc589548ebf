"""What the doctor says of servers that the tests do not have."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from realtime_core.doctor.findings import Finding, Severity, listed_names, size
from realtime_core.doctor.server import Server, check_server

HEALTHY = Server(
    version=170012,
    version_text="17.12",
    database="shop",
    role="app",
    superuser=False,
    replication=True,
    wal_level="logical",
    in_recovery=False,
    encoding="UTF8",
    output_plugin_libraries="pgoutput, test_decoding",
    max_slot_wal_keep_size=10240,
    idle_replication_slot_timeout=0,
    max_replication_slots=10,
    replication_slots=0,
    max_wal_senders=10,
    wal_senders=0,
)


def findings(*, plugin: str = "pgoutput", error: str | None = None, **facts: Any) -> list[Finding]:
    """Return what is not in order."""
    server = attrs.evolve(HEALTHY, **facts)
    found = check_server(server, plugin=plugin, replication_error=error)
    return [finding for finding in found if finding.severity is not Severity.OK]


def test_nothing_is_wrong_with_a_healthy_server() -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("facts", "severity", "check", "part"),
    [
        ({"version": 130010}, Severity.PROBLEM, "server version", "too old"),
        ({"version": 190000}, Severity.WARNING, "server version", "newer"),
        (
            {"in_recovery": True, "version": 150004},
            Severity.PROBLEM,
            "standby",
            "decodes only on a primary",
        ),
        (
            {"in_recovery": True},
            Severity.WARNING,
            "standby",
            "SELECT pg_log_standby_snapshot();",
        ),
        (
            {"wal_level": "minimal"},
            Severity.PROBLEM,
            "wal_level",
            "ALTER SYSTEM SET wal_level = logical;",
        ),
        (
            {"replication": False, "error": "no", "role": 'The "app"'},
            Severity.PROBLEM,
            "replication privilege",
            'ALTER ROLE "The ""app""" REPLICATION;',
        ),
        (
            {"error": "unsupported startup parameter: replication"},
            Severity.PROBLEM,
            "replication privilege",
            "if there is a pooler in between",
        ),
        (
            {"output_plugin_libraries": 'pgoutput, "Other plugin"', "plugin": "wal2json"},
            Severity.PROBLEM,
            "output_plugin_libraries",
            'SET output_plugin_libraries = "pgoutput", "Other plugin", "wal2json";',
        ),
        (
            # The attempt failed for no other reason.
            {"wal_senders": 10, "error": "no free WAL sender"},
            Severity.PROBLEM,
            "free WAL senders",
            "ALTER SYSTEM SET max_wal_senders = 20;",
        ),
        (
            {"max_slot_wal_keep_size": -1},
            Severity.WARNING,
            "max_slot_wal_keep_size",
            "until the disk is full",
        ),
        (
            {"idle_replication_slot_timeout": 60},
            Severity.WARNING,
            "idle_replication_slot_timeout",
            "for 60 s",
        ),
        ({"encoding": "SQL_ASCII"}, Severity.WARNING, "server_encoding", "not UTF-8"),
    ],
)
def test_what_is_not_in_order(
    facts: dict[str, Any], severity: Severity, check: str, part: str
) -> None:
    (finding,) = findings(**facts)
    assert (finding.severity, finding.check) == (severity, check)
    said = (finding.message, finding.remedy or "", *finding.sql)
    assert any(part in each for each in said), said


@pytest.mark.parametrize("libraries", [None, ""])
def test_a_setting_that_is_not_there_or_not_seen_says_nothing(libraries: str | None) -> None:
    assert findings(output_plugin_libraries=libraries, plugin="wal2json") == []


def test_a_list_of_names() -> None:
    assert listed_names('pgoutput, "Odd ""x"", y",test_decoding') == [
        *("pgoutput", 'Odd "x", y', "test_decoding")
    ]
    assert listed_names('""') == []


def test_sizes_are_for_people() -> None:
    assert [size(number) for number in (0, 9999, 10240, 5 * 1024**3, 3 * 1024**5)] == [
        *("0 bytes", "9999 bytes", "10 kB", "5120 MB", "3072 TB")
    ]
