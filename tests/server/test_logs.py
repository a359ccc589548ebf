"""Log lines: one each, as text or JSON."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import re
import select
import sys
from pathlib import Path
from typing import Any

import pytest

from realtime_server.config import LogFormat, LogLevel
from realtime_server.logs import JsonFormatter, LineHandler, TextFormatter, configure, peer_name


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("realtime.connection").makeRecord(
        "realtime.connection", logging.INFO, __file__, 1, message, arguments, None, extra=extra
    )


def test_a_text_line_has_time_level_logger_and_message() -> None:
    line = TextFormatter().format(record("joined: %r by %s", "realtime:*", "1.2.3.4:5", peer="x"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO realtime\.connection: "
        r"joined: 'realtime:\*' by 1\.2\.3\.4:5",
        line,
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x1b[2J", "\x85", "\u2028", "\0", "\x9b"])
def test_nothing_breaks_a_line_or_moves_the_cursor(end: str) -> None:
    line = TextFormatter().format(record("slot %s", f"a{end}b"))
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_letters_of_any_script_stay_as_they_are() -> None:
    assert TextFormatter().format(record("publication %s", "漢ä")).endswith(": publication 漢ä")


def test_a_json_line_has_what_the_event_names_as_keys() -> None:
    line = JsonFormatter().format(record("joined: %s\n", "x", topic="realtime:*", code=1012))
    assert "\n" not in line
    content = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", content.pop("time"))
    assert content == {
        "level": "INFO",
        "logger": "realtime.connection",
        "message": "joined: x\n",
        "topic": "realtime:*",
        "code": 1012,
    }


def test_what_json_does_not_know_is_text() -> None:
    assert (
        json.loads(JsonFormatter().format(record("x", value={1}, error=OSError("no"))))["error"]
        == "no"
    )


def test_a_traceback_is_a_key_of_the_json_line() -> None:
    entry = record("failed")
    try:
        raise ValueError("oh")
    except ValueError:
        entry.exc_info = sys.exc_info()
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: oh")


@pytest.mark.parametrize(
    ("style", "formatter"), [(LogFormat.TEXT, TextFormatter), (LogFormat.JSON, JsonFormatter)]
)
def test_the_root_logger_is_set_up_and_websockets_kept_quiet(
    style: LogFormat, formatter: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    websockets = logging.getLogger("websockets")
    level = websockets.level
    try:
        configure(LogLevel.DEBUG, style)
        assert websockets.level == logging.WARNING
    finally:
        websockets.setLevel(level)
    (handler,) = root.handlers
    assert root.level == logging.DEBUG
    assert isinstance(handler.formatter, formatter)
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr


@pytest.mark.parametrize("style", LogFormat)
def test_the_lines_of_a_worker_name_it(
    style: LogFormat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))
    websockets = logging.getLogger("websockets")
    level = websockets.level
    configure(LogLevel.INFO, style, worker=2)
    websockets.setLevel(level)
    (handler,) = logging.root.handlers
    handler.handle(record("joined: %s", "x"))
    handler.flush()
    line = capsys.readouterr().err
    if style is LogFormat.JSON:
        assert json.loads(line)["worker"] == 2
        assert json.loads(line)["message"] == "joined: x"
    else:
        assert line.endswith(" INFO realtime.connection: worker 2: joined: x\n")


class Stream(io.StringIO):
    """Keeps what each write had."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def warning() -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "warning", "levelno": logging.WARNING})


async def test_the_lines_of_a_round_are_written_together() -> None:
    handler = LineHandler(stream := Stream())
    handler.handle(record("one"))
    handler.handle(record("two"))
    assert not stream.writes
    await asyncio.sleep(0)
    assert stream.writes == ["one\ntwo\n"]
    handler.handle(record("three"))
    await asyncio.sleep(0)
    assert stream.writes == ["one\ntwo\n", "three\n"]


async def test_a_warning_is_written_at_once_behind_the_lines_before_it() -> None:
    handler = LineHandler(stream := Stream())
    handler.handle(record("one"))
    handler.handle(warning())
    assert stream.writes == ["one\nwarning\n"]
    handler.handle(record("two"))
    await asyncio.sleep(0)
    assert stream.writes == ["one\nwarning\n", "two\n"]


@pytest.mark.parametrize("text", ["a", "漢"])
async def test_a_pipe_takes_what_is_written_at_once_in_one_piece(text: str) -> None:
    """Several workers may have one pipe, and a line of one must not stand within one of another."""
    handler = LineHandler(stream := Stream())
    lines = [f"{number} {text * 100}\n" for number in range(250)]
    for line in lines:
        handler.handle(record("%s", line[:-1]))
    assert len(stream.writes) > 1
    await asyncio.sleep(0)
    assert "".join(stream.writes) == "".join(lines)
    assert all(write.endswith("\n") for write in stream.writes)
    assert max(len(write.encode()) for write in stream.writes) <= select.PIPE_BUF
    assert len(stream.writes) < 50


async def test_a_line_that_is_longer_is_written_by_itself() -> None:
    handler = LineHandler(stream := Stream())
    for text in ("one", long := "x" * 5000, "two"):
        handler.handle(record("%s", text))
    await asyncio.sleep(0)
    assert stream.writes == ["one\n", f"{long}\n", "two\n"]


def test_without_an_event_loop_a_line_is_written_at_once() -> None:
    handler = LineHandler(stream := Stream())
    handler.handle(record("one"))
    assert stream.writes == ["one\n"]


def test_the_line_of_an_event_loop_that_ends_is_written_before_the_next() -> None:
    handler = LineHandler(stream := Stream())

    async def last() -> None:
        handler.handle(record("one"))

    loop = asyncio.new_event_loop()
    task = loop.create_task(last())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert task.done()
    assert not stream.writes
    loop.close()
    asyncio.run(last())
    assert stream.writes == ["one\none\n"]


async def test_a_stream_that_takes_nothing_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = LineHandler(stream := Stream())
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", failed.append)
    stream.close()
    monkeypatch.setattr(stream, "write", io.StringIO.write)
    handler.handle(record("one"))
    await asyncio.sleep(0)
    assert [entry.msg for entry in failed] == ["one"]


def test_every_line_about_webhooks_names_an_event_that_the_documentation_lists() -> None:
    root = Path(__file__).parents[2]
    listed = (root / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
    found = set()
    for file in (root / "realtime_server" / "webhooks").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                extra = next((each for each in node.keywords if each.arg == "extra"), None)
                assert extra is not None, f"{file.name}, line {node.lineno}"
                names = re.findall(
                    r"'((?:webhooks?|request|dead|filter|column)_[a-z_]+)'", ast.unparse(extra)
                )
                assert names, ast.unparse(extra)
                found.add(names[0])
    assert len(found) >= 10
    assert not [name for name in found if f"`{name}`" not in listed]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (("192.0.2.1", 4711), "192.0.2.1:4711"),
        # A socket that takes both families has IPv4 clients so.
        (("::ffff:192.0.2.1", 4711, 0, 0), "192.0.2.1:4711"),
        (("2001:db8::1", 4711, 0, 0), "[2001:db8::1]:4711"),
        (("fe80::1%eth0", 4711, 0, 2), "[fe80::1%eth0]:4711"),
        (None, "?"),
    ],
)
def test_a_client_is_named_by_address_and_port(address: Any, name: str) -> None:
    assert peer_name(address) == name
