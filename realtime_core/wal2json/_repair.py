"""Repairs what wal2json 2.6 writes that is not JSON.

It writes two things without escaping them:

* with ``include-default``, a column's default expression: ``"default":"nextval('"T_id_seq"'…)"``
  for every serial column of a table whose name needs quotes;
* a type's name that starts with a quoted identifier, ``"type":"My schema"."My type"``.

The decoder has no use for default expressions, so they are cut out; the types' names are escaped.
Within a JSON string every quote is escaped, so the beginnings of these patterns cannot occur in a
value. The repair is tried only on a text that is not JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["repair"]

_FindEnd: TypeAlias = Callable[[str, int], "re.Match[str] | None"]

# A default expression of format 2 ends where the next column begins or the list of columns ends.
_DEFAULT: Final = ',"default":"'
_DEFAULT_END: Final = re.compile(
    r'"(?=\}(?:,\{"name":"|\](?:,"identity":\[|,"pk":\[|\}\s*\Z)))'
).search
_DEFAULTS: Final = '"columndefaults":'
_DEFAULTS_END: Final = re.compile(r'\],\s*(?="columnvalues":\s?\[)').search

# A JSON string, or identifiers quoted as in SQL.
_TYPE_NAME: Final = (
    r'"(?:[^"\\]|\\.|"")*+"(?:\.(?:"(?:[^"]|"")*+"|[\w$]+))?(?:\([^()"]*\))?(?:\[\])?'
)
_TYPE: Final = re.compile(rf'(?<="type":){_TYPE_NAME}(?=,"(?:typeoid|value)":|\}})')
_TYPES: Final = re.compile(rf'"(?:column|key|pk)types":\s?\[{_TYPE_NAME}(?:,\s?{_TYPE_NAME})*+\]')
_ONE_TYPE: Final = re.compile(_TYPE_NAME)
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')


def repair(text: str) -> str:
    """Return a text in which whatever wal2json forgot to escape is cut out or escaped."""
    text = _cut(text, _DEFAULT, _DEFAULT_END)
    text = _cut(text, _DEFAULTS, _DEFAULTS_END)
    text = _TYPE.sub(_escape, text)
    return _TYPES.sub(lambda types: _ONE_TYPE.sub(_escape, types[0]), text)


def _cut(text: str, beginning: str, find_end: _FindEnd) -> str:
    """Cut out everything from each ``beginning`` to the end that ``find_end`` finds for it.

    The text is read once, however many there are.
    """
    kept, place = [], 0
    while (start := text.find(beginning, place)) >= 0:
        end = find_end(text, start + len(beginning))
        if end is None:
            break
        kept.append(text[place:start])
        place = end.end()
    kept.append(text[place:])
    return "".join(kept)


def _escape(name: re.Match[str]) -> str:
    return name[0] if _JSON_STRING.fullmatch(name[0]) else json.dumps(name[0], ensure_ascii=False)
