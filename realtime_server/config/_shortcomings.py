"""Settings that are valid, and with which something may be lost: the server warns of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import ServerConfig

__all__ = ["shortcomings"]


def shortcomings(config: ServerConfig) -> Iterator[str]:
    """Yield a sentence for each thing that may be lost, which says how to keep it.

    Args:
        config: valid settings.
    """
    if config.replay_window and not config.replays:
        yield (
            f"with WORKERS={config.workers} nothing is replayed: a client may come back to "
            "another worker, which knows of it only with a permanent slot, a secret and "
            "REPLAY_WAL_MB; set SLOT_NAME, or WORKERS=1"
        )
    elif config.wants_journal and not config.has_replay_secret:
        yield (
            "replay has no secret, so it does not outlive the server: whoever may run SQL "
            "could forge its journal; set REPLAY_SECRET, the same for all servers of the "
            "database, or REPLAY_WAL_MB=0"
        )
    if config.nats_url and config.keeps_journal and config.log_max_age < config.replay_window:
        yield (
            f"LOG_MAX_AGE is {config.log_max_age}, and REPLAY_WINDOW {config.replay_window}: the "
            "log has lost what a client missed that was away for longer, and comes back to "
            "another server, or after a restart; set LOG_MAX_AGE above REPLAY_WINDOW"
        )
    if not config.configuration_file.webhooks:
        return
    if config.webhook_slot is None:
        yield (
            "webhooks have a temporary slot: what is committed while the server is down "
            "is not sent; set WEBHOOK_SLOT_NAME"
        )
    if config.webhook_dead_letters is None:
        yield (
            "webhooks have no dead letters: a request that is given up is lost; set "
            "WEBHOOK_DEAD_LETTERS"
        )
