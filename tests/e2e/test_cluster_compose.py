"""deploy/cluster without containers: its files, as processes of one machine, and a stock client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tests.e2e.program import NodeProgram
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.nats_server import LATEST, free_port
from tests.proxy_process import DEPLOY
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

FILES = DEPLOY / "cluster"
NATS = ("nats-1", "nats-2", "nats-3")
NATS_PASSWORD = "4711"
"""NATS takes it for a number, if it is not in quotes."""


class Process:
    """A program that runs inside the `with` block."""

    def __init__(self, command: Sequence[str | Path], output: Path, **environment: str) -> None:
        self._command, self._output = command, output
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Process:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output
            )
        return self

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute(
            "create table todos (id int8 generated always as identity primary key, details text);"
            " create publication supabase_realtime for table todos"
        )
        yield database


def adapted(name: str, places: dict[str, str]) -> str:
    """Return a file with other addresses and paths, each of which it has to have."""
    text = (FILES / name).read_text(encoding="utf-8")
    for place, other in places.items():
        assert place in text, f"{name} has no {place}"
        text = text.replace(place, other)
    return text


def nats_server(compose: Any, name: str, ports: dict[str, int], folder: Path) -> Process:
    """Return one of the NATS servers, started by the very command of its container."""
    routes = {f"nats://{one}:6222": f"nats://127.0.0.1:{ports[f'{one} route']}" for one in NATS}
    config = folder / f"{name}.conf"
    config.write_text(
        adapted(
            "nats.conf",
            {
                "0.0.0.0:4222": f"127.0.0.1:{ports[name]}",
                "0.0.0.0:6222": f"127.0.0.1:{ports[f'{name} route']}",
                "/data": str(folder / name),
                **routes,
            },
        )
    )
    service = compose["services"][name]
    command = [
        argument.replace("$$", "$")
        .replace("/run/secrets", str(folder))
        .replace("/etc/nats/nats.conf", str(config))
        for argument in service["entrypoint"]
    ]
    path = f"{LATEST.parent}:{os.environ['PATH']}"
    return Process(command, folder / f"{name}.log", PATH=path, **service["environment"])


def balancer(ports: Sequence[int], port: int, folder: Path) -> Process:
    config = folder / "haproxy.cfg"
    config.write_text(
        adapted(
            "haproxy.cfg",
            {
                # Not as many files as that need are allowed everywhere.
                "maxconn 20000": "maxconn 100",
                "bind :4000": f"bind 127.0.0.1:{port}",
                "server-1:4000": f"127.0.0.1:{ports[0]}",
                "server-2:4000": f"127.0.0.1:{ports[1]}",
            },
        )
    )
    program = shutil.which("haproxy") or pytest.skip("haproxy is not installed")
    return Process([program, "-db", "-f", str(config)], folder / "haproxy.log")


def environment_of(compose: Any, service: str, shop: Database, folder: Path) -> dict[str, str]:
    """Return a server's settings, with this machine's addresses."""
    settings = {
        name: str(value).replace("/run/secrets", str(folder))
        for name, value in compose["services"][service]["environment"].items()
    }
    where = conninfo_to_dict(shop.dsn)
    settings |= {"DB_HOST": str(where["host"]), "DB_PORT": str(where["port"])}
    settings |= {"DB_NAME": shop.name, "DB_USER": str(where["user"]), "DB_PASSWORD": ""}
    # ServerProcess runs with --dev, which would do without tokens.
    return settings | {"SECURE_CHANNELS": "true"}


def is_ready(server: ServerProcess) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ready", timeout=5).close()
    except OSError:
        return False
    return True


def last_of(program: NodeProgram) -> Any:
    changes = [line["change"] for line in [*program.said] if "change" in line]
    return changes[-1]["new"]["details"] if changes else None


def test_the_files_run_and_outlive_a_nats_server_and_the_server_that_leads(
    compose: Any, shop: Database, clients: Path, tmp_path: Path
) -> None:
    password = str(conninfo_to_dict(shop.dsn).get("password") or "none is asked for")
    secrets = {"db_password": password, "jwt_secret": SECRET, "nats_password": NATS_PASSWORD}
    for name, text in secrets.items():
        (tmp_path / name).write_text(f"{text}\n")
    ports = {one: free_port() for one in (*NATS, *(f"{one} route" for one in NATS), "balancer")}
    slot = unique_name("slot")

    def server(name: str) -> ServerProcess:
        settings = environment_of(compose, name, shop, tmp_path)
        for one in NATS:
            assert f"//{one}:4222" in settings["NATS_URL"]
            address = f"//127.0.0.1:{ports[one]}"
            settings["NATS_URL"] = settings["NATS_URL"].replace(f"//{one}:4222", address)
        return ServerProcess(shop.dsn, **{**settings, "SLOT_NAME": slot})

    def insert(text: str, programs: Sequence[NodeProgram]) -> None:
        shop.execute("insert into todos (details) values (%s)", (text,))
        eventually_sync(lambda: all(last_of(program) == text for program in programs), within=60)

    nats = {name: nats_server(compose, name, ports, tmp_path) for name in NATS}
    with (
        nats["nats-1"],
        nats["nats-2"],
        nats["nats-3"],
        server("server-1") as one,
        server("server-2") as two,
    ):
        eventually_sync(lambda: is_ready(one) and is_ready(two), within=60)
        url = f"ws://127.0.0.1:{ports['balancer']}/socket"
        options = json.dumps({"apikey": make_token({"role": "anon"})})
        programs = [NodeProgram(clients / "realtime_js_2.mjs", url, options) for _ in range(2)]
        with balancer([one.port, two.port], ports["balancer"], tmp_path), programs[0], programs[1]:
            for program in programs:
                binding = {"event": "*", "schema": "public", "table": "todos"}
                program.tell(subscribe="room", bindings=[binding])
                program.wait_for(channel="room", status="SUBSCRIBED")
            assert all("connected: 127.0.0.1" in "".join(each.log) for each in (one, two))
            insert("one", programs)
            nats["nats-3"].kill()
            insert("two", programs)
            leader = next(each for each in (one, two) if "leading, behind" in "".join(each.log))
            leader.process.kill()
            # Its client comes back, to the other one.
            eventually_sync(
                lambda: (
                    sum(each.count(channel="room", status="SUBSCRIBED") for each in programs) == 3
                ),
                within=60,
            )
            insert("three", programs)
