"""KnownConfigs: what the configs of joins were read to ask for.

Clients of one application join with the same few configs, thousands of times when all of them come
back. To read one takes ten times as long as to find it here.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from .joins import JoinConfig, parsing_join

__all__ = ["KnownConfigs"]

MOST: Final = 500
"""Configs that are kept."""
MOST_BYTES: Final = 512
"""Bytes of one that is kept: what it asks for may take a hundred times as much memory."""


class KnownConfigs:
    """The configs that were read lately, by their JSON."""

    def __init__(self) -> None:
        # In the order of their last use.
        self._known: dict[bytes, JoinConfig] = {}

    def __len__(self) -> int:
        return len(self._known)

    def reading(self, payload: Any, text: bytes | None) -> Generator[None, None, JoinConfig | None]:
        """Read the config of a join's payload as :func:`.parsing_join` does, unless it is known.

        Args:
            payload: the payload.
            text: its config as JSON; None if it has none, or none that can be written.

        Raises:
            JoinError: as :func:`.parsing_join` does; what is refused is not kept.
        """
        known = None if text is None else self._known.pop(text, None)
        config = (yield from parsing_join(payload)) if known is None else known
        if text is not None and config is not None and len(text) <= MOST_BYTES:
            self._known[text] = config
            if len(self._known) > MOST:
                del self._known[next(iter(self._known))]
        return config
