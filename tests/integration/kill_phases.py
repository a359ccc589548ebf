"""Kills a program that takes a snapshot or a backfill, in every phase of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from random import Random
from typing import Any, Final

from tests.fix_postgres import Database
from tests.waiting import eventually_sync

__all__ = ["kill_in_some_phase"]

PHASES: Final = (
    "starting",
    "attaching",
    "making a slot",
    "looking at tables",
    "copying rows",
    "going on behind the snapshot",
    "streaming",
    "reading a chunk",
    "waiting for the place of a chunk",
)
"""In the order in which they come."""

_QUERIES = """
    select backend_type = 'walsender', query from pg_stat_activity
    where datname = current_database() and application_name = %s
"""


def kill_in_some_phase(
    process: subprocess.Popen[Any], database: Database, name: str, random: Random, last: str
) -> str:
    """Kill a program once it has come to a phase, and a moment later; return what it did then.

    Args:
        process: the program.
        database: the database that it reads.
        name: the ``application_name`` of its connections.
        random: chooses the phase and the moment.
        last: the last phase to which it is let come.
    """
    try:
        wanted = random.randrange(PHASES.index(last) + 1)
        eventually_sync(lambda: _phase(database, name) >= wanted, within=90)
        time.sleep(random.uniform(0, 0.15))
        assert process.poll() is None, "the program has ended by itself"
        # Nothing changes while it is looked at.
        os.kill(process.pid, signal.SIGSTOP)
        return PHASES[_phase(database, name)]
    finally:
        process.kill()


def _phase(database: Database, name: str) -> int:
    backends = database.execute(_QUERIES, (name,))
    senders = [query for is_sender, query in backends if is_sender]
    others = [query for is_sender, query in backends if not is_sender]
    is_streaming = any(query.startswith("START_REPLICATION") for query in senders)
    if any("realtime-core:backfill" in query for query in others):
        found = "waiting for the place of a chunk"
    elif is_streaming and others:
        found = "reading a chunk"
    elif any(query.startswith("COPY") for query in others):
        found = "copying rows"
    elif is_streaming:
        found = "streaming"
    elif others:
        found = "looking at tables"
    elif any("CREATE_REPLICATION_SLOT" in query for query in senders):
        found = "making a slot"
    elif any(query == "SELECT 1" for query in senders):
        found = "going on behind the snapshot"
    else:
        found = "attaching" if senders else "starting"
    return PHASES.index(found)
