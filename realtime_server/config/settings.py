"""ServerConfig: every environment variable, with its default and its meaning.

The variables for the database, and for whom the server lets in, are in
:mod:`.connection_settings`, those for several servers in :mod:`.cluster_settings`, and those for
rooms in :mod:`.room_settings`. The defaults are in these four modules and nowhere else. A
variable's name is the field's name in capitals.
"""

# ruff: noqa: RUF009 (variable() makes attrs fields)

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Self

import attrs

from realtime_core.errors import ConfigError

from . import _kinds as kinds
from ._contradictions import contradictions
from ._environment import dev_defaults, near_misses, structure, variable
from ._other_names import FAMILIES
from ._shortcomings import shortcomings
from .choices import (
    EventLoop,
    IdentityKind,
    LogFormat,
    LogLevel,
    OutputPlugin,
    ReplicationMode,
    RlsDelete,
    WhenFull,
)
from .room_settings import STATES, RoomSettings

__all__ = ["ServerConfig"]

_MIB: Final = 1024 * 1024


@attrs.frozen
class ServerConfig(RoomSettings):
    """The settings of the server. Each variable's meaning is in its field."""

    # Limits

    max_connections: kinds.Number = variable(16384, "how many connections may be open")
    max_channels: kinds.Number = variable(1000, "how many topics one connection may have joined")
    max_tokens: kinds.Number = variable(
        50,
        "how many different tokens one connection's channels may have, or have had within the last "
        "minute; while a token is renewed, the old and the new one count",
    )
    max_joins_per_second: kinds.Number = variable(
        1000, "how many joins a second one connection may send"
    )
    max_conditions: kinds.Number = variable(
        10_000, "how many conditions the filters of one connection's channels may have together"
    )
    max_total_conditions: kinds.Number = variable(
        250_000,
        "the same for all connections together; each condition takes 2 KB of memory, and time for "
        "each row",
    )
    max_regex_instructions: kinds.Number = variable(
        50_000,
        "how many of RE2's instructions the [regular expressions](limits.md#filters) of one "
        "connection's channels may take together",
    )
    max_total_regex_instructions: kinds.Number = variable(
        1_000_000, "the same for all connections together"
    )
    max_messages_per_second: kinds.Number = variable(
        2000, "how many messages a second one connection may send"
    )
    max_frame_bytes: kinds.Bytes = variable(_MIB, "the size of a client's message or request body")
    max_payload_bytes: kinds.Bytes = variable(_MIB // 4, "the size of a message's payload")
    max_header_bytes: kinds.Bytes = variable(
        64 * 1024, "the size of a request's line and headers together"
    )
    max_query_bytes: kinds.QueryBytes = variable(
        8000, "the size of a request's query, in which tokens may be"
    )
    handshake_timeout: kinds.Milliseconds = variable(
        10_000, "how long a client may take to send its request's head, and then its body"
    )
    idle_timeout: kinds.Milliseconds = variable(
        60_000, "after how long without a message a client's connection is closed"
    )
    outbox_max_bytes: kinds.Bytes = variable(
        8 * _MIB,
        "how much may wait for one client before it is [cut off](../topics/slow-clients.md)",
    )
    outbox_total_bytes: kinds.OptionalBytes = variable(
        None,
        "how much may wait for all clients together before those with the most are cut off; unset: "
        "a quarter of the memory that the process may have",
    )
    outbox_max_age: kinds.Milliseconds = variable(
        15_000, "how long a message may wait for a client before the client is cut off"
    )
    send_buffer_bytes: kinds.SendBuffer = variable(
        128 * 1024,
        "how much the operating system holds for one connection besides, roughly; 0: what the "
        "system chooses, which may be megabytes",
    )

    # Operation

    expose_metrics: kinds.Flag = variable(
        False, "serve [`/metrics`](metrics.md) for Prometheus", dev=True
    )
    inspector: kinds.Flag = variable(
        False,
        "serve a [page](../howto/inspector.md) at `/` that shows changes as they come",
        dev=True,
    )
    ready_max_lag_mb: kinds.Megabytes = variable(
        100, "how far the stream may be behind while `/ready` answers 200; 0: any distance"
    )
    log_level: kinds.Level = variable(
        LogLevel.INFO, "the level of the least important lines that are logged"
    )
    log_format: kinds.LogStyle = variable(
        LogFormat.TEXT, "whether each [line](logs.md) is text, or a JSON object"
    )
    event_loop: kinds.Loop = variable(
        EventLoop.ASYNCIO,
        "the event loop that runs the server; `uvloop` needs the extra `fast`, and is not always "
        "faster",
    )
    drain_timeout: kinds.Milliseconds = variable(
        5000, "how long a stop may take until the last connection is closed"
    )
    workers: kinds.Workers = variable(
        1,
        "how many processes [serve clients on the port](../howto/run-the-server.md#use-all-cores), "
        "on Linux; 0: one for each core; with more than one, limits and memory are those of each",
    )

    # Replay

    replay_window: kinds.Pause = variable(
        300_000,
        "how long a client may be away and [get what it missed](../topics/delivery.md#replay) when "
        "it comes back; 0: nothing is replayed",
    )
    replay_memory_mb: kinds.SomeMegabytes = variable(
        64,
        "how much the changes that clients may have missed may take in memory: some 400,000 small "
        "ones",
    )
    replay_wal_mb: kinds.Megabytes = variable(
        1024,
        "how much WAL the slot `SLOT_NAME` with `_replay` behind it may keep on the database's "
        "disk, so that clients may come back after a restart, or to another server; no more than "
        "`MAX_REPLICATION_LAG_MB` where that is set; 0: there is no such slot, and they come back "
        "to a running server only; with `NATS_URL` the log keeps that, unless this is 0",
    )
    replay_secret: kinds.OptionalText = variable(
        None,
        "a secret of 32 bytes or more that all servers of the database share, of which the keys "
        "are made that [the journal](../topics/delivery.md#over-restarts-and-between-servers) is "
        "signed with; unset: it is made of `DB_PASSWORD` and `JWT_SECRET`",
        secret=True,
    )
    replay_ping_interval: kinds.Milliseconds = variable(
        1000,
        "how often a client that gets changes is asked with a ping what it has received; longer: "
        "fewer pings, and more changes that come twice after a connection was lost",
    )
    replay_identity: kinds.IdentityKinds = variable(
        tuple(IdentityKind),
        "[what may say](../topics/delivery.md#who-comes-back) that a client that comes back is the "
        "same",
    )
    replay_claims: kinds.ClaimNames = variable(
        ("session_id", "sub"),
        "the claims that say whose token it is; the first that a token has counts",
    )
    replay_max_sessions: kinds.Number = variable(
        100_000,
        "how many channels may be away at the same time, which take up to 900 bytes each; when "
        "there are more, the oldest goes of "
        "[whoever has left most](../topics/delivery.md#what-it-costs)",
    )

    # RLS mode

    replication_poll_interval: kinds.Pause = variable(
        0,
        "the least time from the beginning of one check of changes to the next, unless "
        "`MAX_CHANGES` changes wait already; 0: the next check begins when the last one has ended",
    )
    subscription_sync_interval: kinds.Milliseconds = variable(
        60_000,
        "how often the table `realtime.subscription` is synchronized with the joined channels",
    )
    max_changes: kinds.Number = variable(100, "how many changes one check may be about")
    max_record_bytes: kinds.RecordBytes = variable(
        _MIB,
        "the size of a change's values beyond which the [long ones are left "
        "out](limits.md#large-changes), in STREAM mode, too; all stock clients accept the default",
    )
    rls_strict: kinds.Flag = variable(
        False, "send only rows that are still as the change says when they are checked"
    )
    rls_delete: kinds.RlsDeletes = variable(
        RlsDelete.KEY,
        "what is sent of a deleted row where row level security is enabled: `key`: the primary "
        "key, to every role; `policy`: under REPLICA IDENTITY FULL [the whole row to those whom "
        "the policies let see it](../topics/rls.md#who-could-see-a-deleted-row)",
    )
    rls_check_timeout: kinds.Milliseconds = variable(
        1000,
        "how long the policies may take for a role and its claims and one check, which [others "
        "need not wait for](../topics/rls.md#when-a-policy-fails-or-takes-its-time); those that "
        "take longer are cancelled",
    )
    rls_waiting_bytes: kinds.OptionalBytes = variable(
        None,
        "how much may wait for all roles and claims whose policies take too long, before those "
        "with the most lose it and are told of a [gap](protocol.md#gaps); unset: a quarter of the "
        "memory that the process may have",
    )
    rls_ignored_claims: kinds.Names = variable(
        (), "claims that no policy reads, so that tokens which differ in them alone share a check"
    )

    # Webhooks

    webhook_slot_name: kinds.SlotName = variable(
        None,
        "of a permanent slot, [from which endpoints are served](../howto/webhooks.md#the-slot); "
        "unset: `SLOT_NAME` with `_webhooks` behind it, and a temporary one where that is "
        "temporary or unset",
    )
    webhook_headers: kinds.Headers = variable(
        (), "headers that are sent with each request", secret=True
    )
    webhook_secret: kinds.SigningSecrets = variable(
        (),
        "signs each request; while a secret is replaced, the new one and the old one, separated "
        "by a space",
        secret=True,
    )
    webhook_timeout: kinds.Milliseconds = variable(
        5000, "how long one attempt to send a request may take"
    )
    webhook_max_attempts: kinds.Attempts = variable(
        5, "how often a request is tried to be sent, with growing pauses; 0: without end"
    )
    webhook_backoff_min: kinds.Milliseconds = variable(
        1000, "shortest pause between two attempts; it doubles each time"
    )
    webhook_backoff_max: kinds.Milliseconds = variable(60_000, "the pause up to which it doubles")
    webhook_retry_after_max: kinds.Milliseconds = variable(
        3_600_000,
        "longest pause that an endpoint can ask for by `Retry-After`",
    )
    webhook_max_bytes: kinds.Bytes = variable(
        8 * _MIB, "the size of one body; a larger transaction is sent in numbered parts"
    )
    webhook_waiting_bytes: kinds.Bytes = variable(
        32 * _MIB, "how much may wait in memory for one endpoint; one body always may"
    )
    webhook_when_full: kinds.WhenFulls = variable(
        WhenFull.HOLD,
        "what is done when more would wait: `hold` reads no further for webhooks, so that the "
        "database keeps it; `drop` puts it into the dead letters",
    )
    webhook_dead_letters: kinds.DeadLetters = variable(
        None,
        "the file that keeps requests which were given up; unset: they are lost",
    )
    webhook_dead_letters_max_mb: kinds.Megabytes = variable(
        1000,
        "the size of that file; beyond it `hold` goes on trying, and `drop` loses the request; "
        "0: any size",
    )

    # What follows are no variables.

    loopback: bool = False
    """Whether to listen on 127.0.0.1 only, as ``--dev`` does."""
    jwt_jwks_file: str | None = None
    """The file that ``jwt_jwks`` was read from; None if it was no file."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, dev: bool = False) -> Self:
        """Read the settings.

        Args:
            environ: the environment variables, usually ``os.environ``. Unknown ones are ignored,
                and an empty one counts as unset. Where a secret's ``<NAME>_FILE`` is set, that file
                is read.
            dev: whether to take the defaults of ``--dev``: no TLS to the database, channels without
                tokens, metrics, and listening on 127.0.0.1 only.

        Raises:
            ConfigError: with every problem; each names its variable and the remedy.
        """
        values, problems = structure(environ, cls)
        if dev:
            values = {**dev_defaults(cls), "loopback": True, **values}
        config = cls(**values)
        contradictory = [
            problem
            for fields, problem in contradictions(config)
            # It is not known what an invalid value was meant to be.
            if problems.keys().isdisjoint(fields)
        ]
        if problems or contradictory:
            raise ConfigError([*problems.values(), *contradictory])
        return config

    @classmethod
    def near_misses(cls, environ: Mapping[str, str]) -> list[str]:
        """Return a sentence for each set variable that looks like a misspelt one."""
        return near_misses(environ, cls, FAMILIES)

    @property
    def presence_state_bytes(self) -> int:
        """Bytes of all that the channels of one room may track."""
        return self.max_presence_state_bytes or self.outbox_max_bytes // STATES

    @property
    def has_private_channels(self) -> bool:
        """Whether clients may join private channels."""
        is_rls = self.replication_mode is ReplicationMode.RLS
        return self.broadcast and (
            is_rls if self.private_channels is None else self.private_channels
        )

    @property
    def worker_count(self) -> int:
        """How many processes serve clients."""
        return self.workers or _cores()

    @property
    def replays(self) -> bool:
        """Whether clients that come back get what they missed.

        Of several workers, a client comes back to any. What that one has to know of it is in the
        journal, if there is one.
        """
        if not self.replay_window:
            return False
        return self.worker_count == 1 or self.keeps_journal

    @property
    def webhook_slot(self) -> str | None:
        """Name of the permanent slot of the webhooks; None: they have a temporary one."""
        if self.webhook_slot_name is not None:
            return self.webhook_slot_name
        if self.slot_name is None or self.temporary_slot:
            return None
        return f"{self.slot_name}_webhooks"

    @property
    def replay_slot(self) -> str | None:
        """Name of the slot that keeps WAL for replay; None: there is none."""
        # Servers that share a log find there what clients have missed.
        if not self.keeps_journal or self.nats_url is not None:
            return None
        return f"{self.slot_name}_replay"

    @property
    def keeps_journal(self) -> bool:
        """Whether the server keeps a journal, so that clients may come back over a restart, and to
        another server."""
        return self.wants_journal and self.has_replay_secret

    @property
    def wants_journal(self) -> bool:
        """Whether replay is to have a journal, for which it needs a secret as well."""
        if self.slot_name is None or not (self.replay_window and self.replay_wal_mb):
            return False
        return not self.temporary_slot and self.output_plugin is OutputPlugin.PGOUTPUT

    @property
    def has_replay_secret(self) -> bool:
        """Whether there is anything secret to sign the journal of replay with."""
        if self.replay_secret is not None or self.jwt_secret is not None:
            return True
        # Everybody knows the default.
        return self.db_password not in ("", attrs.fields(ServerConfig).db_password.default)

    def shortcomings(self) -> list[str]:
        """Return a sentence for each thing that may be lost with these settings."""
        return list(shortcomings(self))


def _cores() -> int:
    """Return on how many cores this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
