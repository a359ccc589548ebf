"""Webhooks of real processes: killed, sent again by hand, started with what cannot work."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_core import ConfigError
from realtime_server.webhooks.dead_letters import DeadLetter, DeadLetters
from realtime_server.webhooks.redeliver import run_redeliver
from realtime_server.webhooks.request import Request
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.test_life import Load
from tests.receiver import Received, Receiver, Reply
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration

KILLS = int(os.environ.get("WEBHOOK_KILLS", "5"))


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, filling text)")
        database.execute("create publication shop for table item")
        yield database


def configured(path: Path, **endpoints: str) -> dict[str, str]:
    """Write a configuration file; return the settings that every command needs."""
    file = path / "config.json"
    webhooks = [{"name": name, "config": {"endpoint": url}} for name, url in endpoints.items()]
    file.write_text(json.dumps({"webhooks": webhooks}))
    return {
        "CONFIGURATION_FILE": str(file),
        "WEBHOOK_DEAD_LETTERS": str(path / "dead.jsonl"),
        "WEBHOOK_BACKOFF_MIN": "10",
        "WEBHOOK_BACKOFF_MAX": "50",
        "PUBLICATIONS": '["shop"]',
    }


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realtime_server", *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
async def test_nothing_is_missed_by_a_server_that_is_killed_time_and_again(
    shop: Database, tmp_path: Path
) -> None:
    chance = random.Random(5)

    def reply(_: Received) -> Reply:
        lot = chance.random()
        if lot < 0.02:
            return Reply(503)
        return Reply(hangs_up=True) if lot < 0.04 else Reply()

    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    async with Receiver(reply) as first, Receiver(reply) as second:
        settings = {
            **configured(tmp_path, first=first.url, second=second.url),
            "WEBHOOK_SLOT_NAME": slot,
            "WEBHOOK_MAX_ATTEMPTS": "0",
            # Often full.
            "WEBHOOK_WAITING_BYTES": "20000",
        }
        with Load(shop, pause=0.01) as load:
            for _ in range(KILLS):
                server = ServerProcess(shop.dsn, **settings)
                await asyncio.to_thread(server.__enter__)
                try:
                    wanted = len(first.requests) + chance.randrange(1, 200)
                    await eventually(lambda: len(first.requests) >= wanted, within=90)  # noqa: B023
                    server.process.send_signal(signal.SIGKILL)
                finally:
                    await asyncio.to_thread(server.__exit__, None, None, None)
                    print("".join(server.log))
            rows = load.stop()
        server = ServerProcess(shop.dsn, **settings)
        await asyncio.to_thread(server.__enter__)
        try:
            for receiver in (first, second):
                last = str(rows - 1)
                await eventually(
                    lambda: receiver.taken[-1].records() == [last],  # noqa: B023
                    within=120,
                )
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
        for receiver in (first, second):
            check_delivery(receiver, rows)
        assert {each.id for each in first.taken}.isdisjoint(each.id for each in second.taken)


def check_delivery(receiver: Receiver, rows: int) -> None:
    """Every row came, in order but for repetitions, each always under the same id."""
    ids: dict[int, set[str]] = {}
    in_order: list[int] = []
    for each in receiver.taken:
        (row,) = each.records()
        if int(row) not in ids:
            in_order.append(int(row))
        ids.setdefault(int(row), set()).add(each.id)
    assert in_order == list(range(rows))
    assert all(len(known) == 1 for known in ids.values())
    assert receiver.at_once == 1


async def test_json_lines_have_the_events_names_and_values(shop: Database, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        receiver.next.extend([Reply(503), Reply(200), Reply(404), Reply(410)])
        settings = {**configured(tmp_path, one=receiver.url), "LOG_FORMAT": "json"}
        server = ServerProcess(shop.dsn, **settings)
        await asyncio.to_thread(server.__enter__)
        try:
            await eventually(lambda: len(streams(shop)) == 2)
            for number in range(3):
                shop.execute("insert into item values (%s, 'x')", (number,))
            await asyncio.to_thread(server.wait_for_log, re.compile("webhook_gone"), within=30)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    told = [line for line in lines if line["logger"] == "realtime.webhooks"]
    events = [(line["event"], line["webhook"], line.get("reason")) for line in told]
    assert events == [
        ("webhook_failing", "one", "status 503"),
        ("webhook_recovered", "one", None),
        ("request_given_up", "one", "status 404"),
        ("webhook_gone", "one", "status 410"),
    ]
    assert all(re.fullmatch(r"[0-9A-F]+/[0-9A-F]+:\d+.*", told[n]["position"]) for n in (0, 2))
    assert told[2]["count"] == 1
    assert receiver.url not in "".join(server.log)


# Sent again by hand.


async def redeliver(**settings: str) -> tuple[int, list[str]]:
    done = await asyncio.to_thread(run, "webhooks", "redeliver", **settings)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def left(settings: dict[str, str]) -> list[tuple[str, str]]:
    letters = DeadLetters(settings["WEBHOOK_DEAD_LETTERS"])
    return [(each.name, each.request.id) for _, each in letters.read() if each]


async def test_dead_letters_are_sent_again_and_those_that_are_taken_are_removed(
    shop: Database, tmp_path: Path
) -> None:
    async with Receiver(Reply(404)) as one, Receiver(Reply(404)) as two:
        settings = {
            **configured(tmp_path, one=one.url, two=two.url),
            "WEBHOOK_SECRET": "whsec_" + "c2VjcmV0c2VjcmV0" * 2,
            "WEBHOOK_HEADERS": "x-env=test",
        }
        server = ServerProcess(shop.dsn, **settings)
        await asyncio.to_thread(server.__enter__)
        try:
            await asyncio.to_thread(
                server.wait_for_log, re.compile("streaming .*temporary slot.*\n"), within=30
            )
            await eventually(lambda: len(streams(shop)) == 2)
            for number in range(4):
                shop.execute("insert into item values (%s, 'x')", (number,))
            await eventually(lambda: len(one.requests) == 4 and len(two.requests) == 4)
            await eventually(lambda: len(left(settings)) == 8)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)

        # Nothing has changed: an answer that is final holds up nothing.
        assert await redeliver(**settings) == (
            1,
            ["0 taken, 8 left", "  one: 4 left: status 404", "  two: 4 left: status 404"],
        )
        assert len(left(settings)) == 8

        # One works again; two takes one request and is down then.
        one.reply = Reply()
        two.next.extend([Reply(200), Reply(503)])
        before = [each.id for each in one.requests[:4]], two.requests[:4]
        assert await redeliver(**settings) == (
            1,
            [
                "5 taken, 3 left",
                "  two: 2 left: not sent, as one before it could not be: status 503",
                "  two: 1 left: status 503",
            ],
        )
        assert [each.id for each in one.taken] == before[0]
        again = two.taken[0]
        assert (again.id, again.body) == (before[1][0].id, before[1][0].body)
        assert again.headers["x-env"] == "test"
        assert again.headers["webhook-signature"].startswith("v1,")
        assert again.headers["x-realtime-position"] == before[1][0].headers["x-realtime-position"]
        assert left(settings) == [("two", each.id) for each in before[1][1:]]

        # What is not configured any more is kept, and so is what is not whole.
        path = Path(settings["WEBHOOK_DEAD_LETTERS"])
        await asyncio.to_thread(path.write_bytes, path.read_bytes() + b'{"id":"msg_')  # noqa: ASYNC240
        settings |= configured(tmp_path, one=one.url)
        assert await redeliver(**settings) == (
            1,
            [
                "0 taken, 4 left",
                "  ?: 1 left: a line that is not whole, and cannot be sent",
                "  two: 3 left: CONFIGURATION_FILE has no webhook of that name",
            ],
        )
        two.reply = Reply()
        settings |= configured(tmp_path, two=two.url)
        code, lines = await redeliver(**settings)
        assert (code, lines[0]) == (1, "3 taken, 1 left")
        assert left(settings) == []


def streams(database: Database) -> Any:
    return database.execute(
        "select 1 from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid"
        " where s.database = current_database() and r.state = 'streaming'"
    )


async def test_nothing_is_sent_that_could_not_be_taken_out_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, user: int, group: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    async with Receiver() as receiver:
        settings = configured(tmp_path, one=receiver.url)
        path = settings["WEBHOOK_DEAD_LETTERS"]
        request = Request("msg_1", "0/1:0", b"{}", 1, True, 0.0)
        await DeadLetters(path).add([DeadLetter(request, "one", 1, "status 404")])
        monkeypatch.setattr(os, "fchown", refuse)
        with pytest.raises(ConfigError) as caught:
            await run_redeliver(settings, dev=False, tell=print)
        assert receiver.requests == []
    assert caught.value.problems == (
        f"WEBHOOK_DEAD_LETTERS is {path!r}, which cannot be replaced by a file of the same owner "
        "and group (Operation not permitted); run this as its owner or as root",
    )
    assert left(settings) == [("one", "msg_1")]


async def test_what_cannot_be_taken_out_of_the_file_in_the_end_is_said(tmp_path: Path) -> None:
    """As on a disk that is full: the new file may have fewer bytes than the rest needs."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "from realtime_server.cli import main; sys.exit(main(['webhooks', 'redeliver']))"
    )
    async with Receiver() as receiver:
        settings = configured(tmp_path, one=receiver.url)
        path = settings["WEBHOOK_DEAD_LETTERS"]
        requests = [Request(f"msg_{n}", "0/1:0", b"{}", 1, True, 0.0) for n in range(9)]
        letters = [DeadLetter(each, "one", 1, "status 404") for each in requests[:2]]
        # Those that nobody sends stay, and do not fit into the new file.
        letters += [DeadLetter(each, "another", 1, "status 404") for each in requests[2:]]
        await DeadLetters(path).add(letters)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert [each.id for each in receiver.taken] == ["msg_0", "msg_1"]
    assert (done.returncode, done.stderr) == (
        2,
        f"configuration error: WEBHOOK_DEAD_LETTERS is {path!r}, which could not be replaced (File "
        "too large): 2 requests were taken by their endpoints, and are still in it; mend that and "
        "run this again, which sends them again with the same Idempotency-Key\n",
    )
    assert len(left(settings)) == 9
    assert os.listdir(tmp_path) in (["config.json", "dead.jsonl"], ["dead.jsonl", "config.json"])


async def written(settings: dict[str, str], count: int) -> None:
    requests = [Request(f"msg_{n}", "0/1:0", b"{}", 1, True, 0.0) for n in range(count)]
    letters = [DeadLetter(each, "one", 1, "status 404") for each in requests]
    await DeadLetters(settings["WEBHOOK_DEAD_LETTERS"]).add(letters)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_was_taken_is_out_of_the_file_when_a_signal_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with Receiver() as receiver:
        receiver.next.extend([Reply(), Reply(), Reply(is_silent=True)])
        settings = {**configured(tmp_path, one=receiver.url), "WEBHOOK_TIMEOUT": "600000"}
        await written(settings, 4)
        command = (sys.executable, "-m", "realtime_server", "webhooks", "redeliver")
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE
        )
        try:
            await receiver.receives(3, within=60)
            process.send_signal(number)
            _, errors = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
    assert errors == b"interrupted: what endpoints had taken is not in the file any more\n"
    assert process.returncode == 1
    assert left(settings) == [("one", "msg_2"), ("one", "msg_3")]


async def test_of_two_at_once_one_sends_and_the_other_says_so(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        receiver.next.append(Reply(is_silent=True))
        settings = {**configured(tmp_path, one=receiver.url), "WEBHOOK_TIMEOUT": "600000"}
        await written(settings, 2)
        first = asyncio.create_task(run_redeliver(settings, dev=False, tell=print))
        await receiver.receives(1)
        with pytest.raises(ConfigError, match="another process sends dead letters again"):
            await run_redeliver(settings, dev=False, tell=print)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert len(receiver.requests) == 1
        # The first one has ended, and locks nothing any more.
        assert await run_redeliver(settings, dev=False, tell=print)
    assert left(settings) == []


async def test_without_dead_letters_there_is_nothing_to_do(tmp_path: Path) -> None:
    settings = configured(tmp_path, one="http://127.0.0.1:1/")
    assert await redeliver(**settings) == (0, ["there are no dead letters"])
    del settings["WEBHOOK_DEAD_LETTERS"]
    done = await asyncio.to_thread(run, "webhooks", "redeliver", **settings)
    assert (done.returncode, done.stderr) == (
        2,
        "configuration error: WEBHOOK_DEAD_LETTERS is missing: it names the file to send from\n",
    )


# What cannot work.


def test_without_httpx_the_server_says_which_command_installs_it(tmp_path: Path) -> None:
    settings = configured(tmp_path, one="http://127.0.0.1:1/")
    program = (
        "import sys; sys.modules['httpx'] = None\n"
        "from realtime_server.cli import main; sys.exit(main(['--dev']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "configuration error: webhooks in CONFIGURATION_FILE need httpx, which is not installed; "
        "use pip install httpx, or remove them"
    )


def test_dead_letters_that_cannot_be_written_end_the_server(tmp_path: Path) -> None:
    settings = configured(tmp_path, one="http://127.0.0.1:1/")
    path = tmp_path / "loop"
    path.symlink_to(path)
    settings["WEBHOOK_DEAD_LETTERS"] = str(path)
    done = run("--dev", **settings)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"configuration error: WEBHOOK_DEAD_LETTERS is {str(path)!r}, which cannot be written "
        "(Too many levels of symbolic links); name a file that the server may write"
    )


def test_the_server_loads_no_http_client_without_webhooks() -> None:
    program = (
        "import sys\n"
        "from realtime_server.config import ServerConfig\n"
        "from realtime_server.server import RealtimeServer\n"
        "RealtimeServer(ServerConfig(secure_channels=False))\n"
        "print('httpx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_check_says_what_webhooks_need(shop: Database, tmp_path: Path) -> None:
    database = ServerProcess(shop.dsn).environment
    where = {name: database[name] for name in database if name.startswith("DB_")}
    slot = unique_name("slot")
    settings = {
        **where,
        **configured(tmp_path, one="http://127.0.0.1:1/"),
        "WEBHOOK_SLOT_NAME": slot,
        "WEBHOOK_HEADERS": "x=1",
    }
    assert run("--dev", "--check", **settings).returncode == 0
    shop.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    done = run("--dev", "--check", **settings)
    assert done.returncode == 1
    assert f"slot {slot} uses the output plugin test_decoding, not pgoutput" in done.stdout
    # A slot that nobody reads any more.
    done = run("--dev", "--check", **{**settings, "CONFIGURATION_FILE": ""})
    assert done.returncode == 0
    assert f"SELECT pg_drop_replication_slot('{slot}');" in done.stdout
    done = run("--dev", "--check", **{**settings, "HTTPS_PROXY": "gopher://x"})
    assert "webhooks cannot work with this environment's proxies" in done.stdout
