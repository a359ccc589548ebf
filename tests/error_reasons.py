"""What clients can be told when something is refused, read off the server's source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.log_events import text_of

__all__ = ["close_codes", "documented_codes", "documented_reasons", "reasons"]

ROOT = Path(__file__).parents[1]
# Their last argument is the reason, and an integer among the others a close code.
FUNCTIONS = {"Close", "close_within", "refuse", "fail"}
# What operators read, not clients.
NOT_FOR_CLIENTS = ("config", "demo")


def _modules() -> Iterator[ast.Module]:
    server = ROOT / "realtime_server"
    for path in server.rglob("*.py"):
        if path.relative_to(server).parts[0] not in NOT_FOR_CLIENTS:
            yield ast.parse(path.read_text(encoding="utf-8"))


def _calls() -> Iterator[ast.Call]:
    """Yield calls that refuse something."""
    errors = ast.parse((ROOT / "realtime_server" / "errors.py").read_text(encoding="utf-8"))
    names = FUNCTIONS | {node.name for node in errors.body if isinstance(node, ast.ClassDef)}
    for module in _modules():
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            if isinstance(function, ast.Name):
                name = function.id
            if name in names:
                yield node


def _constants(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in module.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=int(number))):
                yield name, number


def reasons() -> set[str]:
    """Return the reasons; ``…`` stands for what differs from time to time."""
    texts = {text_of(call.args[-1]) for call in _calls()}
    # What is all variable is made elsewhere.
    return {text.replace("`", "'") for text in texts if text.strip("… ")}


def close_codes() -> set[int]:
    """Return the close codes that the server itself gives."""
    constants = {name: code for module in _modules() for name, code in _constants(module)}
    found = set()
    for call in _calls():
        for argument in call.args[:-1]:
            match argument:
                case ast.Constant(value=int(number)):
                    found.add(number)
                case ast.Name(id=name) if name in constants:
                    found.add(constants[name])
    return found


def documented_reasons(page: str) -> set[str]:
    """Return the reasons in a page's tables."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`]+)` \| [^|]*\|$", text, re.MULTILINE))


def documented_codes(page: str) -> set[int]:
    """Return the close codes in a page's table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {int(code) for code in re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE)}
