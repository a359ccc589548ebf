"""TLS to the database: DB_SSL as the original has it, and with a check; DB_SSL_ROOT_CERT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from realtime_server.demo.embedded import EmbeddedPostgres
from realtime_server.server import RealtimeServer
from tests.certificates import Authority
from tests.fix_postgres import DEBIAN_BINDIR, Database, Server
from tests.integration.conftest import fresh_database
from tests.server_helpers import dev_config
from tests.tokens import SECRET
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

HOW = """
    select ssl from pg_stat_ssl join pg_stat_activity using (pid)
    where application_name = 'realtime_server' and datname = current_database()
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def secure_postgres(authority: Authority) -> Iterator[EmbeddedPostgres]:
    """A server with a certificate for localhost."""
    # The demo's PostgreSQL is built without TLS.
    if not (DEBIAN_BINDIR / "postgres").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    with EmbeddedPostgres(DEBIAN_BINDIR) as postgres:
        owner = postgres.data_dir.stat()
        for name, content in zip(
            ("server.crt", "server.key"), authority.issue("localhost"), strict=True
        ):
            path = postgres.data_dir / name
            path.write_bytes(content)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        postgres.restart(settings={"ssl": "on"})
        yield postgres


@pytest.fixture
def database(secure_postgres: EmbeddedPostgres) -> Iterator[Database]:
    with fresh_database(Server(secure_postgres.dsn)) as database:
        database.execute("create publication shop for all tables")
        yield database


@pytest.fixture
def root(authority: Authority, tmp_path: Path) -> str:
    path = tmp_path / "root.crt"
    path.write_bytes(authority.certificate)
    return str(path)


@pytest.mark.parametrize(
    ("settings", "encrypted"),
    [
        ({"DB_SSL": "true"}, True),
        ({"DB_SSL": "false"}, False),
        ({"DB_SSL": "verify-ca", "DB_SSL_ROOT_CERT": "<root>"}, True),
        ({"DB_SSL": "verify-full", "DB_SSL_ROOT_CERT": "<root>"}, True),
    ],
)
async def test_the_stream_is_encrypted_as_asked(
    database: Database, settings: dict[str, str], encrypted: bool, root: str
) -> None:
    settings = {name: value.replace("<root>", root) for name, value in settings.items()}
    config = dev_config(database.dsn, DB_HOST="localhost", **settings)
    async with RealtimeServer(config):
        await eventually(lambda: database.execute(HOW) == [(encrypted,)])


async def test_without_a_check_any_certificate_will_do_even_where_libpq_would_look(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("other").certificate)
    monkeypatch.setenv("PGSSLROOTCERT", str(other))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(database.dsn, sslmode="require")
    async with RealtimeServer(dev_config(database.dsn, DB_HOST="localhost", DB_SSL="true")):
        await eventually(lambda: database.execute(HOW) == [(True,)])


RLS = {
    "REPLICATION_MODE": "RLS",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
    "DB_RECONNECT_BACKOFF_MAX": "200",
}
both_modes = pytest.mark.parametrize("mode", [{}, RLS], ids=["STREAM", "RLS"])


@both_modes
async def test_a_certificate_of_another_authority_is_refused_and_said(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: dict[str, str]
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("other").certificate)
    settings = {"DB_SSL": "verify-ca", "DB_SSL_ROOT_CERT": str(other), **mode}
    async with RealtimeServer(dev_config(database.dsn, DB_HOST="localhost", **settings)):
        await eventually(lambda: "certificate verify failed" in caplog.text)
        await eventually(lambda: "that signed it as DB_SSL_ROOT_CERT" in caplog.text)
        assert database.execute(HOW) == []


@both_modes
async def test_a_certificate_for_another_name_is_refused_and_said(
    database: Database, root: str, caplog: pytest.LogCaptureFixture, mode: dict[str, str]
) -> None:
    settings = {"DB_SSL": "verify-full", "DB_SSL_ROOT_CERT": root, **mode}
    async with RealtimeServer(dev_config(database.dsn, DB_HOST="127.0.0.1", **settings)):
        await eventually(lambda: 'does not match host name "127.0.0.1"' in caplog.text)
        await eventually(lambda: "in its certificate, or DB_SSL=verify-ca" in caplog.text)
        assert database.execute(HOW) == []


@both_modes
async def test_where_the_server_has_no_tls_the_remedy_is_the_variable_that_the_texts_name(
    pg18: Server, caplog: pytest.LogCaptureFixture, mode: dict[str, str]
) -> None:
    async with RealtimeServer(dev_config(pg18.dsn, DB_SSL="true", **mode)):
        await eventually(lambda: "ssl in postgresql.conf, or use DB_SSL=false" in caplog.text)
