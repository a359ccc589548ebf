"""The generated parts of the documentation's reference pages.

Each stands in its page between ``<!-- name -->`` and ``<!-- /name -->``.
``python -m tests.reference_pages`` writes them anew; a test holds the pages to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from realtime_server.config import Variable, variables
from realtime_server.phoenix.policy_reasons import PolicyReason
from realtime_server.phoenix.reasons import (
    BroadcastReason,
    CloseReason,
    ConfigReason,
    PresenceReason,
    Reason,
    ReplyReason,
    RlsReason,
    TableReason,
    TokenReason,
)

__all__ = ["PARTS", "rewritten"]

ROOT = Path(__file__).parents[1]
_FIELD = re.compile(r"\{\w+[^}]*\}")


def variable_tables() -> str:
    return "\n".join(_variable_lines())


def _variable_lines() -> Iterator[str]:
    section = ""
    for variable in variables():
        if variable.section != section:
            section = variable.section
            yield from ("", f"## {section}", "")
            yield "| variable | default | `--dev` | values | meaning |"
            yield "|---|---|---|---|---|"
        yield _variable_row(variable)
    yield ""


def _variable_row(variable: Variable) -> str:
    name = f"`{variable.name}`"
    if variable.secret:
        name += f", `{variable.name}_FILE`"
    cells = [name, _code(variable.default), _code(variable.dev), variable.form, variable.meaning]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def reason_table(reasons: type[Reason], head: str) -> str:
    """Return the table of what clients can be told; ``…`` stands for what is filled in."""
    lines = ["", f"| reason | {head} |", "|---|---|"]
    for reason in reasons:
        text = _FIELD.sub("…", reason.template)
        right = reason.remedy
        if isinstance(reason, (BroadcastReason, PolicyReason, PresenceReason)):
            right = f"`{reason.code}`; {right}" if right else f"`{reason.code}`"
        if isinstance(reason, CloseReason):
            right = f"{reason.code}, {right}" if right else str(reason.code)
        lines.append(f"| `{text}` | {right} |".replace("|  |", "| |"))
    return "\n".join([*lines, ""])


def _code(text: str | None) -> str:
    if text is None:
        return ""
    return f"`{text}`" if text else "unset"


PARTS: Mapping[tuple[str, str], Callable[[], str]] = {
    ("docs/reference/environment.md", "variables"): variable_tables,
    **{
        ("docs/reference/errors.md", name): partial(reason_table, reasons, head)
        for name, reasons, head in (
            ("replies", ReplyReason, "what to do"),
            ("broadcasts", BroadcastReason, "code"),
            ("policies", PolicyReason, "code"),
            ("presence", PresenceReason, "code"),
            ("tables", TableReason, "what to do"),
            ("config", ConfigReason, "what to do"),
            ("rls", RlsReason, "what to do"),
            ("tokens", TokenReason, "meaning"),
            ("closes", CloseReason, "code"),
        )
    },
}
"""By page and name, what makes each part."""


def rewritten(page: str) -> str:
    """Return a page's text with its generated parts as they should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for (where, name), make in PARTS.items():
        if where != page:
            continue
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        part = f"{begin}{make()}\n{end}"
        text, count = pattern.subn(lambda _: part, text)  # noqa: B023
        assert count == 1, f"{page} has {count} parts {name!r}"
    return text


if __name__ == "__main__":
    for page in {page for page, _ in PARTS}:
        (ROOT / page).write_text(rewritten(page), encoding="utf-8")
