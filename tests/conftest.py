"""What every test has: the PostgreSQL fixtures, and rules about order, skips and random examples.

Workers of pytest-xdist take a file at a time, the longest first.

Tests that are marked `every_postgres` run on each version of PostgreSQL that they are written for:
they are of what differs between versions, as sources and SQL do. Each other file runs on one of
them, so that about half of the files run on either. In RLS mode all tests read pgoutput, and those
that are marked `every_plugin` wal2json besides. With EVERY_POSTGRES=1 all run on each.

With CI=true nothing may be skipped: there `make test` has installed all that
the tests need, so a skip is a mistake that would hide the test for ever.

`make test` tries a failed test that starts processes once more, as one of six hundred may meet
a machine that stands still for a second. It shows every first failure as it was, and more than
MOST_FLAKY of them fail the run. Unit tests have one try.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import zlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a suite that has passed does not fail of itself:
# EXAMPLES, which asks for more of them, looks for new ones.
settings.register_profile("repeatable", derandomize="EXAMPLES" not in os.environ, deadline=None)
settings.load_profile("repeatable")

# A shell that runs the suite in the background has it ignore Ctrl-C, and so would the programs
# that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fix_nats", "tests.fix_postgres", "tests.fix_rls"]


MOST_FLAKY = 5


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have workers ask for a test's tries at once: small packets wait 40 ms for each other."""
    tries = getattr(config, "failures_db", None)
    if hasattr(config, "workerinput") and tries is not None:
        tries.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pytest_sessionstart() -> None:
    # Garbage collections find nothing in what is collected, and take a third of the time.
    gc.disable()


def pytest_collection_finish() -> None:
    """Have garbage collections look only at what tests make, not at the tests."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let workers begin with what takes long, so that no worker is left with it at the end.

    One after the other, tests stay as they are: by the fixtures that they share.
    """
    if "EVERY_POSTGRES" not in os.environ:
        left_out = [item for item in items if not runs_by_default(item)]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)
    for item in items if config.pluginmanager.hasplugin("rerunfailures") else ():
        if not (item.get_closest_marker("integration") or item.get_closest_marker("e2e")):
            item.add_marker(pytest.mark.flaky(reruns=0))
    if not hasattr(config, "workerinput"):
        return
    slow: Counter[Path] = Counter()
    beside: set[Path] = set()
    for item in items:
        slow[item.path] += item.get_closest_marker("slow") is not None
        if item.get_closest_marker("integration") or item.get_closest_marker("e2e"):
            beside.add(item.path)
    items.sort(key=lambda item: (item.path not in beside, -slow[item.path]))


def runs_by_default(item: pytest.Item) -> bool:
    """Return whether a test is marked `every_postgres`, or it runs on its file's one version."""
    versions: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    if item.get_closest_marker("every_postgres"):
        return True
    one = ("pg17", "pg18")[zlib.crc32(item.path.name.encode()) % 2]
    if (stream := versions.get("stream")) is not None:
        also = item.get_closest_marker("every_plugin")
        return stream == (one, "pgoutput") or bool(also and stream == ("pg17", "wal2json"))
    return versions.get("pg", one) in (one, "TEST_DSN")


def forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that keeps the reason."""
    expected_failure = hasattr(report, "wasxfail")
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and not expected_failure:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (CI=true allows no skips)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    forbid_skip(report)
    return report


def failed_at_first(config: pytest.Config) -> dict[str, pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("rerun", []) if reporter else []
    return {report.nodeid: report for report in reports}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    flaky = failed_at_first(config)
    for name, report in flaky.items():
        terminalreporter.section(f"failed at first: {name}")
        terminalreporter.line(report.longreprtext)
    if len(flaky) > MOST_FLAKY:
        terminalreporter.section(f"{len(flaky)} tests failed at first; {MOST_FLAKY} at most may")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(failed_at_first(session.config)) > MOST_FLAKY:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
