"""The command line, with a server that only pretends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Self

import pytest

from realtime_core import ConfigError, DecodeError, ServerError
from realtime_server import cli, logs
from realtime_server.config import LogFormat, LogLevel, ServerConfig, variables

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.slow,
]


class FakeServer:
    """Does what the test says instead of serving."""

    port = 4567
    entering: BaseException | None = None
    ending: BaseException | None = None
    ends_slowly = False
    signal_number: int | None = None
    seen: list[Any]
    frozen: list[bool]

    def __init__(self, config: ServerConfig) -> None:
        self.seen.append(config)
        self.hurried = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self.entering is not None:
            raise self.entering
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.ends_slowly:
            os.kill(os.getpid(), signal.SIGTERM)
            await self.hurried.wait()
        self.seen.append("closed")

    def cut_off(self) -> None:
        self.seen.append("cut off")
        self.hurried.set()

    def reload_keys(self) -> None:
        self.seen.append("keys read again")
        os.kill(os.getpid(), signal.SIGTERM)

    def why_not_ready(self) -> None:
        return None

    async def listening(self) -> None:
        pass

    async def wait(self) -> None:
        if self.ending is not None:
            raise self.ending
        if self.signal_number is not None:
            os.kill(os.getpid(), self.signal_number)
        await asyncio.Event().wait()


class Files:
    """Stands for the module `resource`."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = (soft, hard)

    def getrlimit(self, what: int) -> tuple[int, int]:
        assert what == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, what: int, limits: tuple[int, int]) -> None:
        assert what == self.RLIMIT_NOFILE
        self.limits = limits


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeServer]]:
    class Server(FakeServer):
        seen: list[Any] = []  # noqa: RUF012
        frozen: list[bool] = []  # noqa: RUF012

    monkeypatch.setattr(cli, "RealtimeServer", Server)
    monkeypatch.setattr(cli, "resource", Files(1024, 100_000))
    monkeypatch.setattr("gc.freeze", lambda: Server.frozen.append(gc.isenabled()))
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    level = logging.getLogger("websockets").level
    yield Server
    logging.getLogger("websockets").setLevel(level)


def test_sighup_has_the_keys_read_again_and_ends_nothing(server: type[FakeServer]) -> None:
    server.signal_number = signal.SIGHUP
    assert cli.main(["--dev"]) == 0
    assert server.seen[1:] == ["keys read again", "closed"]


def test_a_second_signal_ends_it_at_once(server: type[FakeServer]) -> None:
    server.signal_number = signal.SIGINT
    server.ends_slowly = True
    assert cli.main(["--dev"]) == 0
    assert server.seen[1:] == ["cut off", "closed"]


def test_the_event_loop_is_the_one_that_was_asked_for(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server(server):  # type: ignore[misc, valid-type]
        async def __aenter__(self) -> Self:
            self.seen.append(type(asyncio.get_running_loop()).__module__)
            return self

    monkeypatch.setattr(cli, "RealtimeServer", Server)
    server.signal_number = signal.SIGTERM
    monkeypatch.setenv("EVENT_LOOP", "uvloop")
    assert cli.main(["--dev"]) == 0
    assert server.seen[1:] == ["uvloop", "closed"]
    monkeypatch.setenv("EVENT_LOOP", "asyncio")
    assert cli.main(["--dev"]) == 0
    assert server.seen[4] == "asyncio.unix_events"


def test_a_missing_uvloop_is_told_with_its_remedy(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setenv("EVENT_LOOP", "uvloop")
    assert cli.main(["--dev"]) == 2
    assert capsys.readouterr().err == (
        "configuration error: EVENT_LOOP is 'uvloop', which is not installed; use "
        "pip install uvloop, or EVENT_LOOP=asyncio\n"
    )
    assert server.seen == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(
    server: type[FakeServer], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtime.server")
    server.signal_number = number
    assert cli.main(["--dev"]) == 0
    config, closed = server.seen
    assert config == ServerConfig.from_env(os.environ, dev=True)
    assert closed == "closed"
    assert [record.getMessage() for record in caplog.records] == [
        "listening on 127.0.0.1, port 4567",
        "stopping: closing connections, for at most 5000 ms",
        "stopped",
    ]


def test_what_is_there_at_the_start_is_not_looked_through_again_for_garbage(
    server: type[FakeServer],
) -> None:
    server.signal_number = signal.SIGTERM
    assert cli.main(["--dev"]) == 0
    assert server.frozen
    assert all(server.frozen)


def test_collections_of_garbage_are_short_until_the_server_is_closed(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = gc.get_threshold()
    while_closing: list[tuple[int, int, int]] = []

    async def close(*_: object) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        while_closing.append(gc.get_threshold())

    monkeypatch.setattr(server, "__aexit__", close)
    server.signal_number = signal.SIGTERM
    assert cli.main(["--dev"]) == 0
    assert while_closing != [usual]
    assert gc.get_threshold() == usual


@pytest.mark.parametrize(
    ("version", "host"), [("", "all addresses"), ("IPv4", "all IPv4 addresses")]
)
def test_without_dev_it_listens_on_all_addresses(
    server: type[FakeServer],
    version: str,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.server")
    monkeypatch.setenv("SECURE_CHANNELS", "false")
    monkeypatch.setenv("REALTIME_IP_VERSION", version)
    server.signal_number = signal.SIGTERM
    assert cli.main([]) == 0
    assert f"listening on {host}, port 4567" in caplog.messages


def test_bad_settings_are_one_line_each_and_exit_code_2(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("PUBLICATIONS", "shop")
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "configuration error: PUBLICATIONS is 'shop'; use a JSON array of names, as in "
        '["supabase_realtime"]',
        "configuration error: PORT is 'x'; use a whole number between 0 and 65535",
        "configuration error: JWT_SECRET is missing: SECURE_CHANNELS=true (the default) needs it "
        "or JWT_JWKS; set SECURE_CHANNELS=false where every client may see every change",
    ]
    assert server.seen == []


def test_a_near_miss_is_said_beside_the_errors_that_it_may_explain(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUBLICATION", '["shop"]')
    monkeypatch.setenv("PORT", "x")
    assert cli.main(["--dev"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "configuration warning: PUBLICATION is no variable of this server; did you mean "
        "PUBLICATIONS?",
        "configuration error: PORT is 'x'; use a whole number between 0 and 65535",
    ]


def test_a_warning_is_logged_and_the_server_runs(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PUBLICATION", '["shop"]')
    server.signal_number = signal.SIGTERM
    assert cli.main(["--dev"]) == 0
    assert [text for name, level, text in caplog.record_tuples if level == logging.WARNING] == [
        "configuration: PUBLICATION is no variable of this server; did you mean PUBLICATIONS?",
    ]


def test_a_worker_leaves_it_to_its_supervisor_to_warn(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PUBLICATION", '["shop"]')
    assert cli.main(["--dev", "--print-config"]) == 0
    assert "did you mean PUBLICATIONS?" in caplog.text
    caplog.clear()
    assert cli.main(["--dev", "--worker", "1,3,4,5,0123456789abcdef", "--print-config"]) == 0
    assert caplog.text == ""


def test_logs_are_set_up_as_the_environment_says(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[LogLevel, LogFormat]] = []
    monkeypatch.setattr(logs, "configure", lambda *how, worker: asked.append(how))
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("LOG_FORMAT", "json")
    server.signal_number = signal.SIGTERM
    assert cli.main(["--dev"]) == 0
    assert asked == [(LogLevel.ERROR, LogFormat.JSON)]


def test_the_configuration_is_printed_and_nothing_is_started(
    server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hush")
    monkeypatch.setenv("PORT", " 04567")
    assert cli.main(["--dev", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(variables()))
    assert {"DB_PASSWORD=***", "PORT=4567", "DB_SSL=false"} < set(lines)
    assert server.seen == []


def test_settings_that_the_server_itself_refuses_are_told_alike(
    server: type[FakeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server.entering = ConfigError(["one thing", "another"])
    assert cli.main(["--dev"]) == 2
    err = capsys.readouterr().err
    assert err == "configuration error: one thing\nconfiguration error: another\n"


def test_a_port_that_cannot_be_had_is_one_line_and_exit_code_2(
    server: type[FakeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server.entering = ServerError("port 4000 is in use; stop it")
    assert cli.main(["--dev"]) == 2
    assert capsys.readouterr() == ("", "error: port 4000 is in use; stop it\n")


def test_a_stream_that_broke_for_good_is_exit_code_1(
    server: type[FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    server.ending = DecodeError("unknown message")
    assert cli.main(["--dev"]) == 1
    assert server.seen[-1] == "closed"
    assert (
        "realtime.server",
        logging.CRITICAL,
        "the stream cannot go on: unknown message",
    ) in caplog.record_tuples


def test_an_unknown_argument_is_exit_code_2(
    server: type[FakeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--verbose"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --verbose" in capsys.readouterr().err


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for variable in variables():
        assert f"{variable.name}={variable.default}\n" in shown
        if variable.secret:
            assert f"{variable.name}_FILE" in shown


def test_the_package_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "realtime_server", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m realtime_server")


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        (["--dev", "--print-config"], {}, 0),
        (["--dev", "--check"], {"DB_HOST": "/nowhere"}, 1),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_reads_what_it_prints_may_have_had_enough(
    arguments: list[str], settings: dict[str, str], code: int, unbuffered: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "realtime_server", *arguments],
            env={**os.environ, **settings, "PYTHONUNBUFFERED": unbuffered},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert "BrokenPipeError" not in done.stderr
    assert done.returncode == code


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 100_000, 1100),
        (1024, UNLIMITED, 1100),
        (2000, 100_000, 2000),
        (UNLIMITED, UNLIMITED, UNLIMITED),
        (1100, 1100, 1100),
        (256, 1050, 1050),
    ],
)
def test_the_process_may_open_a_file_for_each_connection(
    server: type[FakeServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    raised: int,
) -> None:
    files = Files(soft, hard)
    monkeypatch.setattr(cli, "resource", files)
    monkeypatch.setenv("MAX_CONNECTIONS", "1000")
    server.signal_number = signal.SIGTERM
    assert cli.main(["--dev"]) == 0
    assert files.limits == (raised, hard)
    warning = (
        f"MAX_CONNECTIONS is 1000, and the process may open {hard} files; raise its limit to "
        "1100 (LimitNOFILE, ulimit -Hn), or lower MAX_CONNECTIONS"
    )
    assert (warning in caplog.messages) == (hard == 1050)


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_a_key_that_cannot_be_used_is_a_configuration_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("JWT_JWKS", '{"keys": [{"kty": "RSA", "n": "AQAB"}]}')
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "configuration error: JWT_JWKS has a key 1 whose values cannot be read; export it anew"
    )
