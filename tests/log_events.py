"""Every line that the packages can log, read off their source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

__all__ = ["LogEvent", "documented_events", "events", "text_of"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("realtime_core", "realtime_server")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")

# What the %-operator puts in.
_PLACEHOLDER = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[sdrfx]")
_ROW = re.compile(r"\| `(?P<logger>[\w.]+)` \| (?P<level>[A-Z]+) \| `(?P<message>[^`]+)` \|")


@attrs.frozen
class LogEvent:
    """A line that can be logged; ``…`` stands for what differs from time to time."""

    logger: str
    level: str
    message: str

    def __str__(self) -> str:
        return f"| `{self.logger}` | {self.level} | `{self.message}` |"


@cache
def events() -> frozenset[LogEvent]:
    """Return what the packages log."""
    return frozenset(
        event
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for event in _events(ast.parse(path.read_text(encoding="utf-8")))
    )


def documented_events(page: str) -> set[LogEvent]:
    """Return what the table of a page says."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {LogEvent(**match.groupdict()) for match in _ROW.finditer(text)}


def _events(module: ast.Module) -> Iterator[LogEvent]:
    loggers = dict(_loggers(module))
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        # logger.info("…"), and call_later(…, logger.info, "…").
        for function, message in zip((node.func, *node.args), node.args, strict=False):
            if (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id in loggers
                and function.attr in LEVELS
            ):
                level = "ERROR" if function.attr == "exception" else function.attr.upper()
                text = _PLACEHOLDER.sub("…", text_of(message))
                yield LogEvent(loggers[function.value.id], level, text.replace("`", "'"))


def _loggers(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the variables that hold loggers, and their loggers' names."""
    for node in module.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(
                    func=ast.Attribute(attr="getLogger"), args=[ast.Constant(value=str(logger))]
                ),
            ):
                yield name, logger


def text_of(node: ast.expr) -> str:
    """Return a string's text; ``…`` stands for what a formatted one puts in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(text_of(value) for value in values)
    return "…"
