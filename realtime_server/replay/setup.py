"""Makes the replay of a server from its settings."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from realtime_core import SourceStats

from ..config import ServerConfig
from ..fanout.hub import Hub
from ..fanout.wanted_tables import WantedTables
from .identity import Identifier
from .past import Shared
from .proofs import Proofs
from .publishing import Publish
from .records import journal_secret
from .replay import Replay

__all__ = ["make_replay", "rows_to_read"]

_MEGABYTE: Final = 1_000_000


def make_replay(
    config: ServerConfig,
    hub: Hub,
    new_hub: Callable[[], Hub],
    proofs: Proofs,
    publish: Publish,
    *,
    attached: Callable[[], Awaitable[None]],
    stats: Callable[[], SourceStats],
    share: Shared | None = None,
) -> Replay:
    """Return the replay of a server.

    Args:
        config: the server's settings.
        hub: the live hub.
        new_hub: makes a hub like that, for a round.
        proofs: numbers the writes of all these hubs.
        publish: publishes events to the hub of a round.
        attached: waits until the stream runs.
        stats: returns the stream's counts and positions.
        share: what makes the server one of several that have one slot; None: it has one for itself.
    """
    # Other servers know the keys of channels from the journal alone.
    secret = secrets.token_bytes(32)
    if config.keeps_journal:
        secret = journal_secret(config.db_password, config.jwt_secret, config.replay_secret)
    replay = Replay(
        hub,
        new_hub,
        publish=publish,
        proofs=proofs,
        identifier=Identifier(secret, kinds=config.replay_identity, claims=config.replay_claims),
        window=config.replay_window / 1000,
        max_bytes=config.replay_memory_mb * _MEGABYTE,
        most_away=config.replay_max_sessions,
        clock=proofs.clock,
    )
    if config.keeps_journal:
        replay.continue_with(config, secret=secret, attached=attached, stats=stats, share=share)
    return replay


def rows_to_read(wanted: WantedTables, replay: Replay | None) -> Callable[[str, str], bool]:
    """Return what says of a table, by schema and name, whether a server has to read its rows, which
    it gets from a log that several servers share.

    Args:
        wanted: the tables of which clients of the server have asked for rows.
        replay: of the server; None if nothing is replayed.
    """
    if replay is None or replay.continuity is None:
        return wanted.wants
    return replay.continuity.passing_over(wanted)
