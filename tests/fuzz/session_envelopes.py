"""What the messages of all kinds are put together with: envelopes and values, as text."""

from __future__ import annotations

import json
from functools import lru_cache
from random import Random
from typing import Any, Final

__all__ = ["VALUES", "envelope", "quoted"]

VALUES: Final = [
    *("null", "true", "0", "-1", "1.5", "1e999", "9" * 400, "-0", '""', '"*"', "[]", "{}", "[[]]"),
    *('{"":null}', '{"a":1,"a":2}', '"\\ud800"', '"\\u0000"', '"漢"', "[" * 900 + "]" * 900),
    *('"' + "x" * 5000 + '"', '["x","x"]', "[" + "1," * 100 + "1]"),
]  # fmt: skip


def envelope(random: Random, vsn: str, topic: str, event: str, payload: str) -> str:
    """Return a message as the version writes it.

    Args:
        random: decides on the refs.
        vsn: the version.
        topic: as JSON, like ``event`` and ``payload``.
        event: its name.
        payload: what it carries.
    """
    ref = random.choice(('"1"', '"2"', '"3"', "1", "null")) if random.random() < 0.95 else "9" * 40
    join_ref = random.choice(('"1"', '"1"', "null", '"9"'))
    if vsn == "2.0.0":
        return f"[{join_ref},{ref},{topic},{event},{payload}]"
    rest = f',"join_ref":{join_ref}' if random.random() < 0.5 else ""
    return f'{{"topic":{topic},"event":{event},"payload":{payload},"ref":{ref}{rest}}}'


def quoted(value: Any) -> str:
    """Return a value as JSON."""
    return _quoted_text(value) if isinstance(value, str) and len(value) < 500 else _dumped(value)


@lru_cache(4096)
def _quoted_text(value: str) -> str:
    return _dumped(value)


def _dumped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair can only be written as an escape.
    return text if text.isascii() or text.isprintable() else json.dumps(value)
