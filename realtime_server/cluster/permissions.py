"""What a server has to be allowed at NATS, and the log line that names what it is not allowed.

NATS does not answer what it denies: it complains on the connection, and who has asked waits in
vain.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

__all__ = [
    "Denials",
    "Denied",
    "denied_by",
    "missing_permissions",
    "publish_permissions",
    "subscribe_permissions",
]

logger = logging.getLogger("realtime.cluster")

Denied: TypeAlias = tuple[str, str]
"""What was denied: ``publish`` or ``subscribe``, and the subject in lower case."""

# The client library gives what the server complains about in lower case.
_VIOLATION: Final = re.compile(r"permissions violation for (publish|subscri)\w* to \"([^\"]+)\"")
_VERBS: Final = {"publish": "publish", "subscri": "subscribe"}


def publish_permissions(stream: str) -> list[str]:
    """Return the subjects that a server sends to, as NATS' permissions name them."""
    names = {
        "STREAM.INFO": "",
        "STREAM.CREATE": "",
        "STREAM.MSG.GET": "",
        "CONSUMER.CREATE": ".>",
        "CONSUMER.MSG.NEXT": ".>",
    }
    return [f"{stream}.>", *(f"$JS.API.{name}.{stream}{rest}" for name, rest in names.items())]


def subscribe_permissions(stream: str) -> list[str]:
    """Return the subjects that a server listens to."""
    return [f"{stream}.>", "_INBOX.>"]


def denied_by(error: Exception) -> Denied | None:
    """Return what NATS complains about that was denied; None if the complaint is another one."""
    found = _VIOLATION.search(str(error).lower())
    return None if found is None else (_VERBS[found[1]], found[2])


def missing_permissions(stream: str, denied: Iterable[Denied]) -> Iterator[str]:
    """Yield the permissions without which something was denied, each with its verb.

    Args:
        stream: the log's name.
        denied: what was denied.
    """
    wanted = {"publish": publish_permissions(stream), "subscribe": subscribe_permissions(stream)}
    for verb, subjects in wanted.items():
        for subject in subjects:
            beginning = subject.lower().removesuffix(">")
            if any(how == verb and what.startswith(beginning) for how, what in denied):
                yield f"{verb} {subject}"


class Denials:
    """Tells once of each permission that is missing, whichever connection needs it.

    Args:
        stream: the log's name.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._told: set[str] = set()

    def note(self, error: Exception) -> None:
        """Take what NATS complains about."""
        denied = denied_by(error)
        if denied is None:
            return
        for permission in missing_permissions(self._stream, {denied}):
            if permission not in self._told:
                logger.error("NATS does not let its user %s; permit it there", permission)
            self._told.add(permission)
