"""Errors of the log on NATS."""

from __future__ import annotations

from typing import Final

from realtime_core.errors import ServerError

__all__ = [
    "NO_JETSTREAM",
    "ApiError",
    "FencedError",
    "LogError",
    "MissingError",
    "NoResponderError",
]

NO_JETSTREAM: Final = (
    "JetStream does not answer; enable it in the configuration of NATS (jetstream { store_dir: … "
    "}), and for the user's account; of several NATS servers with JetStream more than half have to "
    "be there"
)
"""What is said where nobody listens to JetStream's requests about streams."""
_REMEDIES: Final = {
    10008: "JetStream may be back in a moment; see what NATS has logged",
    10039: "enable JetStream for the account of the user, as with nsc edit account --js-enable 1",
    10047: "set a larger max_file_store in the configuration of NATS, or a smaller LOG_MAX_BYTES",
    10074: "set NATS_REPLICAS=1, or use three NATS servers that are one cluster",
}
"""What to do about errors of JetStream, by their codes."""


class LogError(ServerError):
    """NATS cannot be reached, or does not do what was asked; it may soon."""


class NoResponderError(LogError):
    """Nobody listens to a request: JetStream is off, or the stream was deleted."""


class FencedError(LogError):
    """Somebody else has appended, or has moved the slot: this server does not lead any more."""


class MissingError(LogError):
    """There is no such stream, or no such message."""


class ApiError(LogError):
    """JetStream has refused a request.

    Attributes:
        code: JetStream's code of the error.
    """

    def __init__(self, subject: str, code: int, description: str) -> None:
        self.code = code
        remedy = _REMEDIES.get(code)
        super().__init__(
            f"JetStream has refused {subject}: {description} ({code})"
            + (f"; {remedy}" if remedy else "")
        )
