"""``doctor``: what would stop a stream, and the SQL that mends it."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..sources._doctor import Diagnosis, Finding, Severity, diagnose

__all__ = ["doctor"]

_WIDTH: Final = 96
_MARGIN: Final = " " * 9


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
        for line in _lines(diagnosis):
            print(line)
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


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    for finding in diagnosis.findings:
        yield from _finding(finding)
    yield ""
    problems, warnings = (diagnosis.count(each) for each in (Severity.PROBLEM, Severity.WARNING))
    if not problems:
        yield f"Nothing stands in the way of a stream; {_counted(warnings, 'warning')}."
    else:
        yield f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


def _finding(finding: Finding) -> Iterator[str]:
    yield textwrap.fill(
        finding.message,
        _WIDTH,
        initial_indent=f"{finding.severity.value:<8} ",
        subsequent_indent=_MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # Not wrapped: they are there to be copied.
    yield from (f"{_MARGIN}{statement}" for statement in finding.sql)
    if finding.remedy is not None:
        yield f"{_MARGIN}({finding.remedy})"


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
