"""Broadcasts in text frames, as stock clients write them: read without parsing the frame.

A frame that begins as those do has nothing but its payload that has to be parsed, so it is read in
half of the time. What is written in any other way, if only with white space, is None here, and is
read by :mod:`.serializers`. Whatever is read here is read there with the same result.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from .broadcasts import Broadcast
from .messages import BROADCAST, Message

__all__ = ["usual_v1", "usual_v2"]

# Up to the payload. JSON has no control characters in strings.
_TEXT: Final = r'"([^"\\\x00-\x1f]*)"'
_REF: Final = rf"(?:null|{_TEXT})"
_PUSH: Final = rf'{{"type":"broadcast","event":{_TEXT},"payload":'.replace("{", r"\{")
_V1: Final = re.compile(rf'\{{(?:"topic":{_TEXT},)?"event":"broadcast","payload":{_PUSH}')
_V2: Final = re.compile(rf'\[{_REF},{_REF},{_TEXT},"broadcast",{_PUSH}')


def usual_v1(frame: str) -> Message | None:
    """Return the message in a text frame of ``vsn=1.0.0``, if it is a usual broadcast.

    Topic and refs may come behind the payload, in any order.
    """
    found = _V1.match(frame)
    if found is None:
        return None
    topic, event = found.groups()
    rest: dict[str, Any] = {}
    # Where the push ends. If it is elsewhere, what is taken for the payload is none, or else what
    # is taken for the rest.
    end = frame.rfind('},"')
    if end >= 0:
        try:
            rest = orjson.loads("{" + frame[end + 2 :])
        except orjson.JSONDecodeError:
            return None
    elif frame.endswith("}}"):
        end = len(frame) - 2
    else:
        return None
    ref, join_ref = rest.pop("ref", None), rest.pop("join_ref", None)
    if not (_is_usual(ref) and _is_usual(join_ref)):
        return None
    topic = rest.pop("topic", topic)
    if rest or not isinstance(topic, str):
        return None
    return _message(topic, event, frame[found.end() : end], ref, join_ref)


def usual_v2(frame: str) -> Message | None:
    """Return the message in a text frame of ``vsn=2.0.0``, if it is a usual broadcast."""
    found = _V2.match(frame)
    if found is None or not frame.endswith("}]"):
        return None
    join_ref, ref, topic, event = found.groups()
    return _message(topic, event, frame[found.end() : -2], ref, join_ref)


def _message(
    topic: str, event: str, payload: str, ref: str | None, join_ref: str | None
) -> Message | None:
    """Return a broadcast's message if what stands where its payload is is one JSON text."""
    if payload[:1].isspace() or payload[-1:].isspace():
        return None
    data = payload.encode()
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return Message(topic, BROADCAST, Broadcast(event, data), ref, join_ref)


def _is_usual(ref: Any) -> bool:
    return ref is None or isinstance(ref, str)
