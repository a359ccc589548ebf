"""RoomSettings: the environment variables of rooms, in which clients send to each other."""

# ruff: noqa: RUF009 (variable() makes attrs fields)

from __future__ import annotations

import attrs

from . import _kinds as kinds
from ._environment import variable
from .cluster_settings import ClusterSettings

__all__ = ["RoomSettings"]


@attrs.frozen
class RoomSettings(ClusterSettings):
    """The settings of rooms, and of what one client may cost the others there."""

    broadcast: kinds.Flag = variable(
        True,
        "let clients [broadcast](../topics/broadcast.md) to each other, if one process serves all",
    )
    max_deliveries_per_second: kinds.Number = variable(
        200_000, "how many messages to members the broadcasts of one connection may be, a second"
    )
