"""docs/howto/webhooks.md: what it configures, sends, receives and sends again, as it stands."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from realtime_server.config import ConfigurationFile
from realtime_server.webhooks.dead_letters import DeadLetters
from realtime_server.webhooks.request import Request
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.server_process import ServerProcess
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs/howto/webhooks.md").read_text(encoding="utf-8")


def titled(title: str) -> str:
    found = re.search(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', PAGE, re.M | re.S)
    assert found is not None, title
    return found[1]


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute(titled("table"))
        database.execute("create publication shop for table users")
        yield database


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def settings(port: int, tmp_path: Path) -> dict[str, str]:
    """The page's, in a folder of the test's own."""
    config = titled("config.json")
    assert "127.0.0.1:8080" in config
    (tmp_path / "config.json").write_text(config.replace(":8080", f":{port}"))
    exports = re.findall(r"^export (\w+)=(.*)$", titled("start"), re.M)
    found = {name: shlex.split(value)[0] for name, value in exports}
    for name in ("CONFIGURATION_FILE", "WEBHOOK_DEAD_LETTERS"):
        found[name] = str(tmp_path / found[name])
    return {**found, "PUBLICATIONS": '["shop"]', "WEBHOOK_BACKOFF_MIN": "10"}


def receiver(port: int, path: Path, secret: str) -> subprocess.Popen[str]:
    program = path / "receiver.py"
    program.write_text(titled("receiver.py"))
    process = subprocess.Popen(
        [sys.executable, str(program), str(port)],
        env={**os.environ, "WEBHOOK_SECRET": secret},
        stdout=subprocess.PIPE,
        text=True,
    )

    def is_up() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    eventually_sync(is_up)
    return process


def metrics(server: ServerProcess) -> str:
    with urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        return str(answer.read().decode())


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def stop(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; return what it printed besides."""
    process.send_signal(signal.SIGINT)
    try:
        rest, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    return rest


def test_changes_are_received_and_sent_again_as_the_page_says(
    shop: Database, port: int, settings: dict[str, str], tmp_path: Path
) -> None:
    secret = settings["WEBHOOK_SECRET"]
    slot = settings["WEBHOOK_SLOT_NAME"]
    is_read = "select 1 from pg_replication_slots where slot_name = %s and active"
    with ServerProcess(shop.dsn, **settings) as server:
        eventually_sync(lambda: shop.execute(is_read, (slot,)))
        process = receiver(port, tmp_path, secret)
        try:
            shop.execute(titled("changes"))
            expected = titled("printed").splitlines(keepends=True)
            assert lines_of(process, len(expected)) == expected
            # A row is printed before its request is answered.
            delivered = 'realtime_webhook_delivered_total{endpoint="users"} 1.0'
            eventually_sync(lambda: delivered in metrics(server))
        finally:
            assert stop(process) == ""
        # Whoever does not know the secret is told nothing.
        process = receiver(port, tmp_path, secret[:-6] + "AAAA==")
        try:
            shop.execute("insert into users values (3, 'Cem', 50)")
            letters = DeadLetters(settings["WEBHOOK_DEAD_LETTERS"])
            path = Path(letters.path)
            eventually_sync(lambda: path.exists() and path.stat().st_size)
            ((_, letter),) = letters.read()
            assert letter is not None
            assert (letter.name, letter.reason) == ("users", "status 401")
        finally:
            assert stop(process) == ""
        process = receiver(port, tmp_path, secret)
        try:
            command = shlex.split(titled("redeliver"))
            assert command[0] == "python"
            done = subprocess.run(
                [sys.executable, *command[1:]],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == titled("redelivered")
            assert lines_of(process, 1) == ["INSERT {'id': '3', 'name': 'Cem'}\n"]
        finally:
            assert stop(process) == ""
        server.stop()
        assert not any("Cem" in line or "8080" in line for line in server.log)
    shop.execute(titled("drop"))


def test_the_receiver_refuses_what_is_not_signed_with_its_secret(port: int, tmp_path: Path) -> None:
    secret = shlex.split(titled("start").replace("export ", ""))
    (key,) = (text.partition("=")[2] for text in secret if text.startswith("WEBHOOK_SECRET="))
    body = b'{"changes": []}'
    now = time.time()
    genuine = Request("msg_1", "0/1:0", body, 1, True, now).headers([key], now)
    other = base64.b64encode(b"x" * 32).decode()
    process = receiver(port, tmp_path, key)
    try:
        assert status_of(port, body, genuine) == 204
        for headers in (
            {},
            {name: text for name, text in genuine.items() if name != "webhook-signature"},
            {name: text for name, text in genuine.items() if name != "webhook-timestamp"},
            {name: text for name, text in genuine.items() if name != "webhook-id"},
            {**genuine, "webhook-timestamp": "yesterday"},
            {**genuine, "webhook-timestamp": "9" * 5000},
            {**genuine, "webhook-signature": ""},
            {**genuine, "webhook-signature": "v1,\u00e9"},
            {**genuine, "webhook-id": "msg_2"},
            Request("msg_3", "0/1:0", body, 1, True, now).headers([f"whsec_{other}"], now),
            Request("msg_4", "0/1:0", body, 1, True, now).headers([key], now - 301),
        ):
            assert status_of(port, body, headers) == 401, headers
        assert status_of(port, b'{"changes": [1]}', genuine) == 401
    finally:
        assert stop(process) == ""


def status_of(port: int, body: bytes, headers: Mapping[str, str]) -> int:
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/", body, dict(headers))
        return connection.getresponse().status


def test_the_example_of_a_body_has_the_fields_of_a_body(
    shop: Database, port: int, settings: dict[str, str], tmp_path: Path
) -> None:
    """The page's body is what the first request would have, were it an INSERT of one row."""
    body = json.loads(titled("body"))
    with ServerProcess(shop.dsn, **settings) as server:
        slot = settings["WEBHOOK_SLOT_NAME"]
        is_read = "select 1 from pg_replication_slots where slot_name = %s and active"
        eventually_sync(lambda: shop.execute(is_read, (slot,)))
        # Nobody listens: it goes to the dead letters, where it can be read.
        shop.execute("insert into users values (1, 'Anna', 30)")
        letters = Path(settings["WEBHOOK_DEAD_LETTERS"])
        eventually_sync(lambda: letters.exists() and letters.stat().st_size)
        sent = json.loads(letters.read_text())["body"]
        server.stop()
    shop.execute(titled("drop"))
    for each in (sent, *sent["changes"]):
        each["commit_timestamp"] = body["commit_timestamp"]
    assert sent == body


def test_every_key_of_a_webhook_is_in_the_page(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(titled("config.json"))
    (webhook,) = ConfigurationFile.read(str(path)).webhooks
    assert webhook.name == "users"
    documented = set(re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.M))
    assert {"config.endpoint", "name", "relation", "events", "filter", "select"} <= documented
