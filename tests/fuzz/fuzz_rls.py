"""Is anybody told of a row that a SELECT would not show, or not told of one that it would?

    python -m tests.fuzz.fuzz_rls --decisions 1000000 --seed 1

makes random worlds one after the other (tables, privileges, policies, publications, viewers,
filters), writes to them, and compares what a real server in RLS mode tells real clients with what
PostgreSQL itself says: see :mod:`tests.fuzz.rls.oracle`. Each world is on the next one of several
servers: on PostgreSQL 17 and 18, by pgoutput and by wal2json, with RLS_STRICT and with
RLS_DELETE=policy. In some worlds clients lose their connections and come back, perhaps with
another token: see :mod:`tests.fuzz.rls.absences`; ``--replay`` makes these worlds alone. It prints
how many decisions came out how, and fails with the first one that is wrong, and with the command
that makes its world again (``--world 17``). The same worlds for the same seed.

A decision is one committed change and one subscriber that listens to such changes of its table: a
channel of a topic client, or a binding of a binding client. Has it been told exactly when it
should, once and in order, with the right columns and values? What it is told besides is wrong, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from tests.fix_postgres import DEBIAN_BINDIR, Server, running_postgres
from tests.fix_postgres import SETTINGS as SERVER_SETTINGS
from tests.fuzz.rls.absences import ReplayPlayer
from tests.fuzz.rls.clients import ProtocolError
from tests.fuzz.rls.play import Player, Result, WrongDecisionError
from tests.fuzz.rls.stage import Setting, Stages, settings_for

__all__ = ["Result", "WrongDecisionError", "run"]


async def run(
    servers: Mapping[int, Server],
    decisions: int,
    seed: int = 0,
    *,
    world: int | None = None,
    settings: Sequence[Setting] = (),
    goes_on: bool = False,
    note: Callable[[Result], None] = lambda result: None,
    module: str = "realtime_server",
    **environment: str,
) -> Result:
    """Make decisions until there are so many.

    Args:
        servers: PostgreSQL by its version, where databases and roles may be made.
        decisions: at least so many.
        seed: of all that is random.
        world: the number of the only one to be made.
        settings: of one world after the other; all that the servers can have, usually.
        goes_on: with the next world where one was wrong.
        note: is given the result so far after each world.
        module: what is run as the server.
        environment: more of the server's variables.

    Raises:
        WrongDecisionError: at the first one.
    """
    result = Result()
    chosen = settings or settings_for(servers)
    with Stages(servers, module, environment) as stages:
        number = 0 if world is None else world
        while result.decisions < decisions:
            try:
                stage = stages.of(chosen[number % len(chosen)])
                player = ReplayPlayer if stage.setting.replays else Player
                await player(stage, Random(f"{seed} {number}"), f"w{number}", result).play()
            except (WrongDecisionError, ProtocolError) as error:
                error.add_note(f"On {stage.setting}.")
                only = " --replay" if all(one.replays for one in chosen) else ""
                error.add_note(
                    "To see it again: python -m tests.fuzz.fuzz_rls "
                    f"--seed {seed} --world {number}{only}"
                )
                if not goes_on:
                    raise
                result.wrong.append("\n".join((str(error), *error.__notes__)))
            result.worlds += 1
            number += 1
            note(result)
            if world is not None:
                break
    return result


def _servers(dsn: str | None, stack: contextlib.ExitStack) -> Iterator[Server]:
    if dsn is not None:
        yield Server(dsn)
        return
    for bindir in (None, DEBIAN_BINDIR):
        if bindir is None or bindir.exists():
            running = running_postgres(bindir, SERVER_SETTINGS)
            yield Server(stack.enter_context(running).dsn)


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for wrong decisions of RLS mode.")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", type=int, help="the number of the only one to be made")
    parser.add_argument(
        "--dsn",
        help="a superuser's, of a PostgreSQL server; default: PostgreSQL 18 and, where Debian's "
        "packages have it, 17 are started",
    )
    parser.add_argument(
        "--go-on", action="store_true", help="with the next world where one is wrong"
    )
    parser.add_argument(
        "--replay", action="store_true", help="only worlds whose clients go away and come back"
    )
    parser.add_argument("--module", default="realtime_server", help="what is run as the server")
    parser.add_argument("--report", type=Path, help="a file that is written anew after each world")
    chosen = parser.parse_args()
    begin = time.perf_counter()

    def shown(result: Result) -> str:
        lines = "\n".join(result.lines())
        return f"{lines}\n{time.perf_counter() - begin:,.0f} s, seed {chosen.seed}\n"

    def note(result: Result) -> None:
        if chosen.report is not None:
            chosen.report.write_text(shown(result), encoding="utf-8")

    with contextlib.ExitStack() as stack:
        servers = {one.version: one for one in _servers(chosen.dsn, stack)}
        result = asyncio.run(
            run(
                servers,
                chosen.decisions,
                chosen.seed,
                world=chosen.world,
                settings=[one for one in settings_for(servers) if one.replays or not chosen.replay],
                goes_on=chosen.go_on,
                note=note,
                module=chosen.module,
            )
        )
    print(shown(result), end="")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
