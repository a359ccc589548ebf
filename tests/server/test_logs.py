"""Log lines: one each, as text or JSON."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from realtime_server.config import LogFormat, LogLevel
from realtime_server.logs import JsonFormatter, TextFormatter, configure, peer_name


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
    line = capsys.readouterr().err
    if style is LogFormat.JSON:
        assert json.loads(line)["worker"] == 2
        assert json.loads(line)["message"] == "joined: x"
    else:
        assert line.endswith(" INFO realtime.connection: worker 2: joined: x\n")


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
