"""``doctor``: prints what blocks replication, and the SQL that fixes it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..doctor import Diagnosis, Severity, diagnose

__all__ = ["doctor"]


def doctor(
    dsn: str, *, publications: Sequence[str], slot: str | None, plugin: str, as_json: bool
) -> int:
    """Print the findings.

    Returns:
        The exit code: 1 if one of them is a problem, else 0.

    Raises:
        ConfigError: if the arguments cannot work.
    """
    diagnosis = asyncio.run(diagnose(dsn, publications=publications, slot=slot, plugin=plugin))
    if as_json:
        print(json.dumps(_structure(diagnosis), indent=2, ensure_ascii=False))
    else:
        print(*diagnosis.lines(), sep="\n")
    sys.stdout.flush()
    return 1 if diagnosis.count(Severity.PROBLEM) else 0


def _structure(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "database": diagnosis.database,
        "server_version": diagnosis.server_version,
        "problems": diagnosis.count(Severity.PROBLEM),
        "warnings": diagnosis.count(Severity.WARNING),
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity.value,
                "message": finding.message,
                "sql": list(finding.sql),
                "remedy": finding.remedy,
            }
            for finding in diagnosis.findings
        ],
    }
