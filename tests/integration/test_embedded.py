"""The embedded PostgreSQL: it starts, it stops, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from realtime_server.demo.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.fix_postgres import Server, execute
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

FILL_THE_SOCKET = """
with messages as (
    select pg_logical_emit_message(false, 'filler', repeat('x', 100_000))
    from generate_series(1, 300)
)
select count(*) from messages
"""

START_AND_WAIT = """
import sys
from realtime_server.demo.embedded import EmbeddedPostgres

with EmbeddedPostgres() as server:
    print(server.pid, server.socket_dir, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


def ask(server: EmbeddedPostgres, query: str) -> object:
    [(answer,)] = execute(server.dsn, query)
    return answer


def is_gone(pid: int) -> bool:
    """A process that ended counts as gone even when init has not reaped it yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_it_decodes_logically_and_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    assert ask(server, "show wal_level") == "logical"
    assert ask(server, "show listen_addresses") == "127.0.0.1"


def test_it_listens_on_a_unix_socket(server: EmbeddedPostgres) -> None:
    with psycopg.connect(
        host=str(server.socket_dir), port=server.port, user="postgres"
    ) as connection:
        assert connection.info.host == str(server.socket_dir)


def test_its_socket_has_a_short_name_whatever_tmpdir_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with EmbeddedPostgres() as server:
        socket_path = server.socket_dir / f".s.PGSQL.{server.port}"
        assert socket_path.is_socket()
        assert len(bytes(socket_path)) < 104


def test_settings_go_over_the_defaults() -> None:
    with EmbeddedPostgres(settings={"wal_level": "replica", "work_mem": "5MB"}) as server:
        assert ask(server, "show wal_level") == "replica"
        assert ask(server, "show work_mem") == "5MB"


def test_with_a_password_nobody_else_is_let_in() -> None:
    with EmbeddedPostgres(password="p@ss/word") as server:
        assert ask(server, "select 1") == 1
        for host in (server.host, str(server.socket_dir)):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(host=host, port=server.port, user="postgres", dbname="postgres")


def test_the_callers_environment_does_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.nowhere")
    with EmbeddedPostgres() as server:
        dsn = f"{server.dsn}?options=-c%20search_path%3Dpublic"
        monkeypatch.delenv("PGDATESTYLE")
        with psycopg.connect(dsn) as connection:
            assert connection.execute("show datestyle").fetchone() == ("ISO, MDY",)


def test_it_never_runs_as_root_and_nobody_else_may_enter_its_data(
    server: EmbeddedPostgres,
) -> None:
    uids = psutil.Process(server.pid).uids()
    status = server.data_dir.stat()
    assert uids.real == uids.effective == uids.saved == status.st_uid != 0
    assert psutil.Process(server.pid).gids().real == status.st_gid != 0
    assert status.st_mode & 0o077 == 0


def test_stop_leaves_no_process_and_no_file() -> None:
    server = EmbeddedPostgres()
    server.start()
    family = [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]
    folder = server.socket_dir
    server.stop()
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    assert not folder.exists()
    server.stop()


def test_a_stopped_server_says_so() -> None:
    server = EmbeddedPostgres()
    for attribute in ("pid", "socket_dir", "data_dir", "log_path"):
        with pytest.raises(EmbeddedPostgresError, match=r"call start\(\)"):
            getattr(server, attribute)


def test_stop_does_not_wait_for_a_consumer_that_does_not_read() -> None:
    server = EmbeddedPostgres()
    server.start()
    try:
        consumer = psycopg.connect(server.dsn, autocommit=True, replication="database")
        with contextlib.closing(consumer):
            consumer.execute("CREATE_REPLICATION_SLOT stuck TEMPORARY LOGICAL test_decoding")
            consumer.pgconn.send_query(b"START_REPLICATION SLOT stuck LOGICAL 0/0")
            ask(server, FILL_THE_SOCKET)
            # By a signal alone that asks for it, it would wait for ever.
            server.stop()
    finally:
        server.stop("immediate")


def test_a_restart_keeps_port_and_data(server: EmbeddedPostgres) -> None:
    port, pid = server.port, server.pid
    execute(server.dsn, "create table kept as select 42 as answer")
    server.restart("immediate", {"work_mem": "6MB"})
    assert (server.port, ask(server, "select answer from kept")) == (port, 42)
    assert ask(server, "show work_mem") == "6MB"
    assert server.pid != pid


def test_down_is_down_inside_the_block_only(server: EmbeddedPostgres) -> None:
    with server.down():
        with pytest.raises(psycopg.OperationalError):
            ask(server, "select 1")
        with pytest.raises(EmbeddedPostgresError, match="not running"):
            _ = server.pid
    assert ask(server, "select 1") == 1


def test_it_starts_once(server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match="started already"):
        server.start()
    assert ask(server, "select 1") == 1


def test_a_data_dir_of_the_callers_is_kept(server: EmbeddedPostgres) -> None:
    data_dir = server.socket_dir / "another"
    with EmbeddedPostgres(data_dir=data_dir) as first:
        execute(first.dsn, "create table kept as select 42 as answer")
    with EmbeddedPostgres(data_dir=data_dir) as second:
        assert ask(second, "select answer from kept") == 42


def test_a_server_that_does_not_start_says_why_and_leaves_nothing() -> None:
    server = EmbeddedPostgres(settings={"wal_level": "nonsense"})
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "wal_level"'):
        server.start()
    with pytest.raises(EmbeddedPostgresError):
        _ = server.socket_dir


def test_a_busy_port_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedPostgresError, match="Address already in use"):
            EmbeddedPostgres(port=port).start()


def test_a_cluster_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="initdb failed"):
        EmbeddedPostgres(data_dir=tmp_path).start()


def test_killing_the_owner_takes_the_server_along() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        family = [int(pid), *(child.pid for child in psutil.Process(int(pid)).children())]
        owner.send_signal(signal.SIGKILL)
    try:
        eventually_sync(lambda: all(is_gone(pid) for pid in family))
    finally:
        shutil.rmtree(folder)  # what nobody was left to do


def test_a_wheel_in_a_folder_that_only_its_owner_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    wheel = EmbeddedPostgres().bindir.parent.parent
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, home / part.name, symlinks=True)
    for path in (home, *home.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)  # as a umask of 077 would have it
    spec = importlib.util.spec_from_file_location(
        wheel.name, home / wheel.name / "__init__.py", submodule_search_locations=[]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with EmbeddedPostgres() as server:
        assert server.bindir.is_relative_to(home)
        folder = server.socket_dir
        assert ask(server, "select count(*) from pg_timezone_names") != 0
        assert (folder / "programs").exists() == (os.geteuid() == 0)
    assert not folder.exists()


def test_it_runs_debians_postgresql_17(pg17: Server) -> None:
    assert pg17.version == 17
    assert pg17.execute("show wal_level") == [("logical",)]
    assert pg17.has_wal2json()
