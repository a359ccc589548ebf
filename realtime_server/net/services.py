"""Services: what all connections of a server share."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from ..auth.authorizer import Authorizer
from ..config import ServerConfig
from ..fanout.hub import Hub
from ..fanout.presence import Presence
from ..fanout.registrar import Registrar
from ..fanout.rooms import Rooms
from ..fanout.source_attachment import Attachment
from ..metrics import Metrics
from ..phoenix.known_configs import KnownConfigs
from ..replay.guarded_replay import GuardedReplay
from .filter_limits import FilterBudget
from .private_channels import PrivateChannels
from .slow_clients import Backlog

__all__ = ["Services"]


@attrs.frozen(kw_only=True)
class Services:
    """The parts of the server that a connection needs."""

    hub: Hub
    """Where channels subscribe to changes."""
    attachment: Attachment
    """Says whether the database's changes are being read, and lets a join wait until they are."""
    authorizer: Authorizer
    """Decides on joins and tokens."""
    registrar: Registrar
    """The mode, STREAM or RLS: it is told of each channel from its join to its end."""
    backlog: Backlog
    """Bounds the bytes that wait for all clients together."""
    budget: FilterBudget
    """Bounds what the filters of all connections together may cost."""
    config: ServerConfig
    """The limits of a connection, among others."""
    metrics: Metrics
    """Counts what happens."""
    replay: GuardedReplay | None = None
    """Brings channels back to where they were; None if REPLAY_WINDOW is 0."""
    rooms: Rooms | None = None
    """Where clients broadcast to each other; None if they do not."""
    presence: Presence | None = None
    """Who is present in the rooms; None without rooms."""
    private: PrivateChannels | None = None
    """Asks policies about private channels; None if there are none."""
    configs: KnownConfigs = attrs.field(factory=KnownConfigs)
    """What the configs of joins ask for, as far as that was read lately."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970, for the expiry of tokens."""
