"""Stock clients, unmodified, miss nothing while connections and servers break.

REPLAY_FAULTS is how many faults there are, REPLAY_FAULTS_SEED says which. With `-s` each is shown
as it happens. Many are made in runs of 50, each with the next seed, which take two minutes or so;
REPLAY_RESULTS names a file that remembers which have been (:mod:`tests.e2e.replay.results`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from realtime_server.config import ServerConfig
from tests.e2e.browser import Browser, served
from tests.e2e.replay.clients import CLIENTS, Identity, StockClient, start_page, start_program
from tests.e2e.replay.passed import REPEATED_FOR_NOTHING
from tests.e2e.replay.results import note_part, skip_if_noted
from tests.e2e.replay.rows import Writer
from tests.e2e.replay.run import Run
from tests.e2e.replay.servers import Servers
from tests.e2e.replay.verdict import Verdict
from tests.e2e.replay.wire import Wire
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.nats_server import NatsServer
from tests.rls_helpers import roles
from tests.tokens import SECRET, make_token

FAULTS = int(os.environ.get("REPLAY_FAULTS", "25"))
SEED = int(os.environ.get("REPLAY_FAULTS_SEED", "1"))
MOST_IN_A_RUN = 50
# Several servers, and servers without time, take the most time of a machine.
FEW = 5 if "REPLAY_FAULTS" not in os.environ else min(MOST_IN_A_RUN, max(10, FAULTS // 4))
FEW_CLIENTS = ("js", "py") if "REPLAY_FAULTS" not in os.environ else CLIENTS
RLS_FAULTS = max(4, FAULTS // 10)
RESTARTS = max(2, FAULTS // 20)

WINDOW = int(os.environ.get("REPLAY_WINDOW", getattr(ServerConfig(), "replay_window", 0)))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,
    # A busy machine may take half a minute to start a server.
    pytest.mark.timeout(600 + 10 * FAULTS),
]
needs_replay = pytest.mark.xfail(
    WINDOW == 0, reason="the server replays nothing", run="REPLAY_FAULTS" in os.environ
)

MEMBERS: tuple[tuple[str, Identity], ...] = (
    *((name, "session") for name in CLIENTS),
    ("js", "claims"),
    ("py", "address"),
    ("js-1", "address"),
)


@pytest.fixture
def items(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, note text)")
        database.execute("create publication changes for table item")
        yield database


class Stage:
    """Starts clients of servers, each behind a wire of its own."""

    def __init__(self, clients: Path, python_client: Path, browser: Browser) -> None:
        self._folder = clients
        self._python = python_client
        self._browser = browser

    @contextlib.asynccontextmanager
    async def clients(
        self, servers: Servers, members: Sequence[tuple[str, Identity]], page_url: str
    ) -> AsyncIterator[list[StockClient]]:
        """Yield clients that have been told to join, and supabase-js in a page besides."""
        async with contextlib.AsyncExitStack() as stack:
            makers = []
            for number, (name, identity) in enumerate(members, 1):
                wire = await stack.enter_async_context(Wire(servers.pick))
                program, make = start_program(
                    name, number, wire, identity, folder=self._folder, python=self._python
                )
                stack.enter_context(program)
                makers.append(make)
            wire = await stack.enter_async_context(Wire(servers.pick))
            page = stack.enter_context(self._browser.page(page_url))
            yield [*(make() for make in makers), start_page(page, wire)]


@pytest.fixture
def stage(clients: Path, python_client: Path, browser: Browser) -> Stage:
    return Stage(clients, python_client, browser)


@pytest.fixture
def page_url(clients: Path) -> Iterator[str]:
    with served(clients) as url:
        yield f"{url}/supabase.html"


def environment(page_url: str, **settings: str) -> dict[str, str]:
    return {"ALLOWED_ORIGINS": f'["{page_url.removesuffix("/supabase.html")}"]', **settings}


def report(verdicts: Mapping[str, Verdict]) -> str:
    lines = [
        f"{name:22} {it.seen} seen, {len(it.missing)} missing, {it.behind} behind,"
        f" {it.repeated} repeated, {len(it.disordered)} out of order, {len(it.leaked)} leaked,"
        f" {it.joins} joins; gaps cover {dict(it.covered)},"
        f" fresh starts {it.restarted}{'; never joined again' * it.never_joined_again}"
        for name, it in verdicts.items()
    ]
    return "\n".join(lines)


def counts_of(run: Run, faults: int) -> dict[str, dict[str, int]]:
    """Return what was counted of each client."""
    again = run.repetitions()
    return {
        name: {
            "faults": faults,
            "rows": it.seen,
            "joins": it.joins,
            "missing": len(it.missing),
            "behind": it.behind,
            "repeated": it.repeated,
            REPEATED_FOR_NOTHING: again[name][REPEATED_FOR_NOTHING],
            "out of order": len(it.disordered),
            "in gaps": it.covered.total(),
            "before fresh starts": it.restarted,
        }
        for name, it in run.verdicts().items()
    }


def check(run: Run, count: int) -> None:
    verdicts = run.verdicts()
    print(report(verdicts))
    for name, again in run.repetitions().items():
        print(f"{name}: passed again {dict(again)}")
    said = run.said()
    print(*(line for line in said.splitlines() if " WARNING " in line), sep="\n")
    assert "Traceback" not in said, said
    # The faults were some.
    assert any(verdict.joins > 1 for verdict in verdicts.values())
    bad = {name: verdict for name, verdict in verdicts.items() if not verdict.is_good}
    for name, verdict in bad.items():
        print(f"{name}: {verdict.missing[:3]}…{verdict.missing[-3:]} {verdict.disordered[:3]}")
        print(f"{name}: leaked {verdict.leaked[:3]}")
        if verdict.missing:
            print(f"{name}: told {run.told_before(name, verdict.missing[0])}")
    assert not bad, said


@needs_replay
@pytest.mark.parametrize("run", range(-(-FAULTS // MOST_IN_A_RUN)))
async def test_nothing_is_missed_over_faults(
    run: int, items: Database, stage: Stage, page_url: str
) -> None:
    seed = SEED + run
    count = min(MOST_IN_A_RUN, FAULTS - run * MOST_IN_A_RUN)
    print(f"REPLAY_FAULTS={count} REPLAY_FAULTS_SEED={seed}")
    skip_if_noted(kind="faults", seed=seed, count=count)
    settings = environment(page_url, WEBSOCKET_COMPRESSION=str(seed % 2 == 0).lower())
    with Servers(items, seed=seed, environment=settings) as servers:
        async with stage.clients(servers, MEMBERS, page_url) as clients:
            a_run = Run(servers, clients, seed=seed)
            async with a_run.rows(Writer(items, seed=seed)):
                await a_run.faults(count, server_faults=1 / 6)
    note_part(counts_of(a_run, count), kind="faults", seed=seed, count=count)
    check(a_run, count)


@needs_replay
async def test_clients_that_cannot_be_told_apart_miss_nothing(
    items: Database, stage: Stage, page_url: str
) -> None:
    count = min(MOST_IN_A_RUN, max(10, FAULTS // 4))
    print(f"REPLAY_FAULTS={FAULTS} REPLAY_FAULTS_SEED={SEED}")
    members: list[tuple[str, Identity]] = []
    members += [("js", "tab"), ("js", "tab"), ("js-vsn1", "tab")]
    members += [("py", "address"), ("py", "address"), ("js-1", "address"), ("js-1", "address")]
    with Servers(items, seed=SEED, environment=environment(page_url)) as servers:
        async with stage.clients(servers, members, page_url) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.faults(count)
    check(run, count)


@pytest.mark.parametrize(
    "several", ["two servers", "two servers on a log", "a warm standby", "two workers"]
)
async def test_nothing_is_missed_where_servers_are_several(
    several: str,
    items: Database,
    stage: Stage,
    page_url: str,
    new_nats: Callable[..., NatsServer],
) -> None:
    print(f"REPLAY_FAULTS={FAULTS} REPLAY_FAULTS_SEED={SEED}")
    skip_if_noted(kind=several, seed=SEED, count=FEW)
    with Servers(
        items,
        count=2 if several.startswith("two servers") else 1,
        nats_url=new_nats().url if several.endswith("log") else "",
        has_standby=several == "a warm standby",
        workers=2 if several == "two workers" else 1,
        seed=SEED,
        environment=environment(page_url),
    ) as servers:
        members: list[tuple[str, Identity]] = [(name, "session") for name in FEW_CLIENTS]
        async with stage.clients(servers, members, page_url) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.faults(FEW, server_faults=1 / 2)
    note_part(counts_of(run, FEW), kind=several, seed=SEED, count=FEW)
    check(run, FEW)


async def test_nothing_is_missed_while_the_server_has_no_time(
    items: Database, stage: Stage, page_url: str
) -> None:
    """Clients give up joins, and close connections by themselves."""
    print(f"REPLAY_FAULTS={FAULTS} REPLAY_FAULTS_SEED={SEED}")
    skip_if_noted(kind="stalls", seed=SEED, count=FEW)
    with Servers(items, seed=SEED, environment=environment(page_url)) as servers:
        servers.ways = ("stall",)
        members: list[tuple[str, Identity]] = [(name, "session") for name in FEW_CLIENTS]
        async with stage.clients(servers, members, page_url) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.faults(FEW, server_faults=1 / 2)
    note_part(counts_of(run, FEW), kind="stalls", seed=SEED, count=FEW)
    check(run, FEW)


async def test_a_server_that_is_stopped_and_started_repeats_nothing(
    items: Database, stage: Stage, page_url: str
) -> None:
    # On a busy machine clients that still catch up take long to answer.
    settings = environment(page_url, DRAIN_TIMEOUT="20000")
    with Servers(items, seed=SEED, environment=settings) as servers:
        members: list[tuple[str, Identity]] = [(name, "session") for name in CLIENTS]
        async with stage.clients(servers, members, page_url) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.restarts(RESTARTS)
    check(run, RESTARTS)
    # A busy machine may have clients close by themselves.
    repeated = run.repeated_after_stops()
    assert not any(repeated.values()), repeated


async def test_in_rls_mode_each_client_gets_what_it_may_see_and_nothing_else(
    items: Database, one_pg: Server, clients: Path, python_client: Path
) -> None:
    """Rows with even numbers are for some, those with odd ones for others; the server is stopped
    and started again, too."""
    items.execute(
        "alter table item enable row level security;"
        " create policy parity on item using"
        " (id % 2 = (current_setting('request.jwt.claims')::jsonb ->> 'parity')::int8)"
    )
    settings = {"REPLICATION_MODE": "RLS", "SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}
    with contextlib.ExitStack() as stack:
        (reader,) = stack.enter_context(roles(one_pg, "reader"))
        stack.callback(items.execute, f'drop owned by "{reader}"')
        items.execute(f'grant select on item to "{reader}"')
        servers = stack.enter_context(Servers(items, seed=SEED, environment=settings))
        async with contextlib.AsyncExitStack() as started:
            makers = []
            for number, name in enumerate(("js", "js", "py", "py", "js-vsn1", "phoenix")):
                parity = number % 2
                token = make_token({"role": reader, "sub": f"{number}", "parity": parity})
                wire = await started.enter_async_context(Wire(servers.pick))
                program, make = start_program(
                    *(name, number, wire, "session"),
                    folder=clients,
                    python=python_client,
                    token=token,
                    may_see=lambda row, parity=parity: row % 2 == parity,
                )
                started.enter_context(program)
                makers.append(make)
            run = Run(servers, [make() for make in makers], seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.faults(RLS_FAULTS)
                await run.restarts(1)
                await run.faults(RLS_FAULTS)
    check(run, 2 * RLS_FAULTS)
    assert all(verdict.seen for verdict in run.verdicts().values())


async def test_what_is_missed_without_replay_is_seen(
    items: Database, stage: Stage, page_url: str
) -> None:
    settings = environment(page_url)
    if hasattr(ServerConfig(), "replay_window"):
        settings["REPLAY_WINDOW"] = "0"
    with Servers(items, seed=SEED, environment=settings) as servers:
        async with stage.clients(
            servers, [("js", "session"), ("py", "session")], page_url
        ) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.faults(5)
    verdicts = run.verdicts()
    print(report(verdicts))
    assert any(verdict.missing for verdict in verdicts.values())


async def test_a_message_that_is_lost_on_a_connection_is_seen(
    items: Database, stage: Stage, page_url: str
) -> None:
    # The server cannot know of it, and other rows come before and behind it.
    with Servers(items, seed=SEED, environment=environment(page_url)) as servers:
        async with stage.clients(servers, [("js", "session")], page_url) as clients:
            run = Run(servers, clients, seed=SEED)
            async with run.rows(Writer(items, seed=SEED)):
                await run.lose_a_message(clients[0])
    planted, other = run.verdicts().values()
    assert len(planted.missing) == 1
    assert other.is_good
    assert other.seen > 1
