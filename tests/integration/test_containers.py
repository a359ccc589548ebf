"""What compose.yaml and the image do, without containers: the same commands on a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from realtime_server.demo.embedded import EmbeddedPostgres
from tests.dockerfile import Dockerfile
from tests.fix_postgres import DEBIAN_BINDIR, SETTINGS, Server, execute
from tests.server_helpers import open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORD = 'it\'s a "password" \\'


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A server of its own, as a role belongs to all databases of one."""
    if not (DEBIAN_BINDIR / "psql").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    with EmbeddedPostgres(DEBIAN_BINDIR, settings=SETTINGS) as embedded:
        server = Server(embedded.dsn, embedded)
        server.execute("create database shop")
        yield server


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def healthcheck() -> list[str]:
    """The image's, with the Python that is here."""
    dockerfile = Dockerfile((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    _, _, command = dockerfile.stages[-1]["HEALTHCHECK"].partition("CMD ")
    program, *arguments = json.loads(command)
    assert program == "python"
    return [sys.executable, *arguments]


def is_healthy(healthcheck: list[str], port: int) -> bool:
    environ = {**os.environ, "PORT": str(port)}
    return subprocess.run(healthcheck, env=environ, stderr=subprocess.DEVNULL).returncode == 0


def run_to_its_end(command: list[str], environment: dict[str, str]) -> None:
    environ = {"PATH": f"{DEBIAN_BINDIR}:{os.environ['PATH']}", **environment}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_the_database_of_compose_is_ready_for_the_server_of_compose(
    postgres: Server, compose: Any, healthcheck: list[str], tmp_path: Path
) -> None:
    secrets = dict.fromkeys(compose["secrets"], PASSWORD) | {"jwt_secret": SECRET}
    secrets["superuser_password"] = "another one"
    for name, text in secrets.items():
        (tmp_path / name).write_text(f"{text}\n")
    where = conninfo_to_dict(postgres.dsn)
    host, port = str(where["host"]), str(where["port"])

    def environment_of(service: str) -> dict[str, str]:
        return {
            name: str(value).replace("/run/secrets", str(tmp_path))
            for name, value in compose["services"][service]["environment"].items()
        }

    database = environment_of("database")
    database["POSTGRES_USER"] = str(where["user"])
    database |= {"PGHOST": host, "PGPORT": port, "PGPASSWORD": str(where.get("password", ""))}
    run_to_its_end(["sh", str(DEPLOY / "init-database.sh")], database)
    # The server's role may replicate, and do nothing else by itself.
    attributes = "rolreplication, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolinherit"
    role = postgres.execute(f"select {attributes} from pg_roles where rolname = 'realtime'")
    assert role == [(True, False, False, False, False, False)]
    readable = "select has_table_privilege('realtime', 'todos', 'select')"
    assert execute(make_conninfo(postgres.dsn, dbname="shop"), readable) == [(False,)]

    settings = environment_of("server") | {"DB_HOST": host, "DB_PORT": port}
    # ServerProcess sets it for others; --dev would do without tokens.
    settings |= {"DB_PASSWORD": "", "SECURE_CHANNELS": "true"}
    with ServerProcess(postgres.dsn, **settings) as server:
        server.wait_until_streaming()
        eventually_sync(lambda: is_healthy(healthcheck, server.port))
        query = f"vsn=1.0.0&apikey={make_token({'role': 'anon'})}"
        async with open_client(server.port, query=query) as client:
            await client.join("realtime:public:todos")
            shop = make_conninfo(postgres.dsn, dbname="shop")
            execute(shop, "insert into todos (details) values ('Read the documentation')")
            record = (await client.receive())["payload"]["record"]
            assert record["details"] == "Read the documentation"


def test_the_healthcheck_says_no_while_no_changes_are_read(healthcheck: list[str]) -> None:
    with ServerProcess("host=127.0.0.1 port=1 dbname=none user=nobody") as server:
        server.wait_for_log(re.compile("trying again in"))
        assert not is_healthy(healthcheck, server.port)
    assert not is_healthy(healthcheck, server.port)


def test_the_settings_of_composes_database_are_postgresqls(postgres: Server, compose: Any) -> None:
    command = " ".join(compose["services"]["database"]["command"])
    settings = dict(re.findall(r"-c (\w+)=(\w+)", command))
    known = postgres.execute("select name from pg_settings where name = any(%s)", ([*settings],))
    assert {name for (name,) in known} == set(settings)
    assert settings["wal_level"] == "logical"
