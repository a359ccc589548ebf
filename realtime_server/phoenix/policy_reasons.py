"""The reasons that clients of private channels are told: what policies refuse, and why they could
not be asked."""

from __future__ import annotations

from typing import TypeAlias

from .reasons import BroadcastReason, Reason

__all__ = ["PolicyReason", "PushReason"]


class PolicyReason(Reason):
    """Why a private channel was not joined, or not sent to.

    Attributes:
        code: what programs read, as ``error`` in the reply to a broadcast with ``ack``.
    """

    def __init__(self, code: str, template: str, remedy: str = "") -> None:
        super().__init__(template, remedy)
        self.code = code

    NOT_READ = (
        "unauthorized",
        "Unauthorized: You do not have permissions to read from this Channel topic: {name}",
        "no `SELECT` policy of `realtime.messages` lets the token's role see a row of this topic,"
        " or [a grant is missing](../topics/private-channels.md#turn-it-on)",
    )
    READ_LOST = (
        "unauthorized",
        "You no longer have permission to read from this Channel topic: {name}",
        "the new token may not read what the old one could; the channel has ended",
    )
    NOT_WRITTEN = (
        "unauthorized",
        "Unauthorized: no policy lets this channel's client send to it",
        "no `INSERT` policy of `realtime.messages` lets the token's role write a row of this topic,"
        " or [a grant is missing](../topics/private-channels.md#turn-it-on)",
    )
    FAILED = (
        "rls_policy_error",
        "RlsPolicyError: a policy of realtime.messages fails",
        "the server's log has the SQLSTATE; joins are told that they may not read",
    )
    TIMED_OUT = (
        "query_canceled",
        "QueryCanceled: the policies of realtime.messages took longer than RLS_CHECK_TIMEOUT",
        "[make them faster](../topics/private-channels.md#what-policies-cost), or try again later",
    )
    AWAY = (
        "unable_to_connect_to_project",
        "UnableToConnectToProject: the database cannot be asked now; try again in a moment",
        "stock clients join again by themselves",
    )
    BUSY = (
        "increase_connection_pool",
        "IncreaseConnectionPool: too many joins and messages wait for policies; try again in a "
        "moment",
    )
    NO_PARTITION = (
        "missing_partition",
        "MissingPartition: realtime.messages has no partition for what policies are asked with",
        "run `python -m realtime_server migrate`",
    )
    ROLE = (
        "unable_to_set_policies",
        "UnableToSetPolicies: the token's role is none of the database, or this server may not act "
        "as it",
        "run the `GRANT` line in the server's log",
    )
    REPLAY = (
        "unable_to_replay",
        "UnableToReplayMessages: the stored messages cannot be read now, or too many came "
        "meanwhile; join again in a moment",
        "the join is refused, or the channel ends; stock clients join again by themselves",
    )


PushReason: TypeAlias = BroadcastReason | PolicyReason
"""Why a broadcast goes to nobody."""
