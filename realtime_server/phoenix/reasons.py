"""The reasons that clients are told, from which the tables of the documentation are made.

A reason goes into the reply to a join or another message, into the event ``system``, or into a
close frame.
"""

from __future__ import annotations

import enum
from typing import NewType

__all__ = [
    "BroadcastReason",
    "CloseReason",
    "ConfigReason",
    "PresenceReason",
    "Reason",
    "ReplyReason",
    "RlsReason",
    "TableReason",
    "Told",
    "TokenReason",
]

Told = NewType("Told", str)
"""A reason as a client is told it: what :meth:`Reason.told` returns, so that each is in a table."""


class Reason(enum.Enum):
    """A reason that a client can be told. The subclasses are the reference's tables.

    Attributes:
        template: the text; names in braces are filled in.
        remedy: what the client's author or the operator can do, or what it means, as Markdown.
    """

    def __init__(self, template: str, remedy: str = "") -> None:
        self.template = template
        self.remedy = remedy

    def told(self, **values: object) -> Told:
        """Return the text with the values of its names."""
        return Told(self.template.format(**values))


class ReplyReason(Reason):
    """Why a join or another message was refused."""

    UNMATCHED_TOPIC = (
        "unmatched topic",
        "join a topic that begins with `realtime:`, and send events to joined topics",
    )
    NO_FILTER = (
        "there is no filter after the table; write one, as in realtime:{schema}:{table}:id=eq.99"
    )
    FILTER = (
        "cannot filter by {filter}: {problem}",
        "a topic's [filter](filters.md) cannot be read, or the filter of a topic or a binding does "
        "not fit its table; the reason says what is wrong and where",
    )
    COLUMN = (
        "invalid column for {use} {column}",
        "a column of the filter or of `select` does not exist or is not published, or the role may "
        "not `SELECT` it",
    )
    OWN_SCHEMA = (
        "the schema {schema} is the server's own: its changes are sent to nobody",
        "name another; a join that names all of them never gets these",
    )
    NO_REGEX = (
        "match and imatch are not available on this server",
        "use `like` and `ilike`; the server's log says what to install",
    )
    NO_BROADCAST_REPLAY = (
        "UnableToReplayMessages: only private channels replay broadcasts; join with private true, "
        "or without config.broadcast.replay",
        "in public channels clients get what is broadcast while they are joined",
    )
    NO_PRIVATE_CHANNELS = (
        "PrivateChannelsDisabled: this server has no private channels; join with private false, or "
        "without it",
        "a channel that asks to be private is never joined as a public one",
    )
    PRIVATE_ONLY = (
        "PrivateOnly: this server has private channels only; join with private true",
        "where `PRIVATE_ONLY` is set",
    )
    NOT_ATTACHED_IN_TIME = (
        "PostgresChangesSubscribeTimeout: the database's changes are not being read yet, after "
        "{seconds:g} s; join again"
    )
    NO_STREAM = (
        "Replication connection was not established in time",
        "the event `system` of a join with `replication_ready`, whose channel ends; join again",
    )
    TOPIC_TOO_LONG = "the topic is longer than {most} characters"
    TOKENS = (
        "TooManyTokens: this connection's channels hold, or held within the last minute, {most} "
        "different tokens, the most they may (MAX_TOKENS); leave channels and wait a minute, use "
        "one token for all, or raise MAX_TOKENS",
        "a token that is renewed is two for a minute; a program that speaks for many users has a "
        "connection for each of them",
    )
    CHANNELS = (
        "ChannelRateLimitReached: this connection has joined {most} topics, the most it may "
        "(MAX_CHANNELS); leave some"
    )
    JOINS = (
        "ClientJoinRateLimitReached: more than {most} joins a second (MAX_JOINS_PER_SECOND); wait"
    )
    CONDITIONS = (
        "TooManyConditions: the filters of {whose} would have more than {most} conditions "
        "({variable}); leave some topics, or join with fewer",
        "of this connection, or of [all of them](limits.md#filters)",
    )
    PATTERNS = (
        "TooManyPatterns: the regular expressions of {whose} would be larger than {most} "
        "instructions ({variable}); leave some topics, or use like, or write [A-Za-z0-9_] for \\w",
        "[how they are counted](limits.md#filters)",
    )
    PAYLOAD = "PayloadTooLarge: the payload is larger than {most} bytes (MAX_PAYLOAD_BYTES)"
    TOKEN_OF_TOPIC_CLIENT = (
        "error occurred when joining {topic}",
        "send a valid token; clients whose joins have no `config` are not told the reason",
    )
    TOKEN = (
        "InvalidJWTToken: {reason}",
        "send a valid token; the reason follows, from the list below",
    )


class BroadcastReason(Reason):
    """Why a broadcast went to nobody, or not to all. With ``ack``, the reply has the code and the
    text.

    Attributes:
        code: what programs read, as ``error`` in the reply.
    """

    def __init__(self, code: str, template: str, remedy: str = "") -> None:
        super().__init__(template, remedy)
        self.code = code

    NO_EVENT = (
        "invalid_payload",
        "a broadcast is an object with a string event, in valid Unicode",
        "`payload` may be any JSON, and is `{}` where it is missing",
    )
    NO_JSON = (
        "invalid_payload",
        "the broadcast's payload is not JSON (RFC 8259), or nested too deeply",
        "NaN and Infinity are no JSON",
    )
    METADATA = ("invalid_payload", "the broadcast's metadata is not a JSON object")
    BINARY_PUSH = (
        "invalid_payload",
        "a binary push of kind 0 can be relayed to nobody; push an object, or kind 3",
        "npm's `phoenix` pushes an `ArrayBuffer` so; it is answered without `ack`, too",
    )
    TOO_LARGE = (
        "payload_size_exceeded",
        "the broadcast's event and payload are larger than {most} bytes (MAX_PAYLOAD_BYTES)",
    )
    DELIVERIES = (
        "rate_limited",
        "more than {most} deliveries a second (MAX_DELIVERIES_PER_SECOND): each member of the "
        "room counts; wait",
        "the channel stays joined",
    )
    WAITING = (
        "rate_limited",
        "too many broadcasts wait to be written to their members; wait",
        "of one client, half of what may wait: for a room a second of writing, for all 16 MiB",
    )
    TOO_LARGE_TO_CARRY = (
        "payload_size_exceeded",
        "the broadcast is larger than what NATS lets servers tell each other (its max_payload)",
    )
    AWAY = (
        "other_servers_unavailable",
        "the other servers cannot be reached now: only members at this server get the broadcast",
        "these get it once more if it is sent again",
    )
    BEHIND = (
        "other_servers_unavailable",
        "too many broadcasts wait to be sent to the other servers: only members at this server "
        "get this one",
        "these get it once more if it is sent again",
    )
    DISABLED = (
        "broadcast_disabled",
        "BroadcastDisabled: this server has no broadcast",
        "it has `BROADCAST=false`",
    )
    PERSIST = (
        "persist_unavailable",
        "this server does not store broadcasts; send it without persist",
    )


class PresenceReason(Reason):
    """Why a ``track`` or ``untrack`` was refused.

    Attributes:
        code: what the metrics count it as.
    """

    def __init__(self, code: str, template: str, remedy: str = "") -> None:
        super().__init__(template, remedy)
        self.code = code

    DISABLED = "disabled", "PresenceDisabled: this server has no presence", "`BROADCAST=false`"
    NO_OBJECT = "invalid", "Presence track payload must be a map", "an object"
    EVENT = "invalid", "the event of a presence message is track or untrack", "in any case"
    TEXT = (
        "invalid",
        "the presence payload has half a character, or a number that is too large",
        "others could not read the room's state",
    )
    DEPTH = (
        "invalid",
        "the presence payload is nested more than {most} deep",
        "the same",
    )
    TOO_LARGE = (
        "too_large",
        "PresenceTooLarge: the presence payload is larger than {most} bytes (MAX_PRESENCE_BYTES)",
    )
    CALLS = (
        "rate_limited",
        "ClientPresenceRateLimitReached: more than {most} presence messages of a channel in a "
        "second (MAX_PRESENCE_CALLS_PER_SECOND); wait",
        "the channel stays joined",
    )
    MEMBERS = (
        "limit_reached",
        "PresenceLimitReached: {most} members of the room are tracked, the most there may be "
        "(MAX_PRESENCE_MEMBERS)",
    )
    STATE = (
        "limit_reached",
        "PresenceLimitReached: the state of the room would be larger than {most} bytes "
        "(MAX_PRESENCE_STATE_BYTES)",
    )


class TableReason(Reason):
    """Why a join that names a table was refused."""

    NOT_THERE = (
        "there is no table {table}",
        "correct the name, or create the table; a view is not a table",
    )
    NOT_PUBLISHED = "table {table} is not published; add it to the publication"
    NOT_PUBLISHED_UNDER_ITS_NAME = (
        "table {table} is not published under its own name; see whether it is added to the "
        "publication, and what publish_via_partition_root is",
        "[partitions](../topics/rls.md#partitions)",
    )


class ConfigReason(Reason):
    """Why a join's ``config`` was not understood."""

    PLACES = (
        "{problems}",
        "something has the wrong type, or a list is too long (100 bindings, 1600 names in a "
        "`select`): the place is told with what belongs there, as in `config.postgres_changes has "
        "101 entries, at most 100 are taken`. The third problem is the last that is looked for",
    )
    EVENT = "{place}.event must be one of {events}, not {event}"
    FILTER = (
        "{place}.filter: {problem}",
        "what is wrong with the filter; or the join's filters together "
        "[cost too much](limits.md#filters)",
    )
    FILTER_OF_MANY_TABLES = "{place}.filter is about one table's columns: name schema and table"
    FILTER_OF_TRUNCATE = "{place}.filter is about rows, and a TRUNCATE has none: leave it out"
    LEAVES_WITHOUT_FILTER = "{place}.leaves is about rows that leave a filter: give it a filter"
    LEAVES_OF_EVENT = "{place}.leaves is told as a DELETE: ask for the event * or DELETE"
    SELECT_OF_MANY_TABLES = (
        "{place}.select chooses among one table's columns: name schema and table"
    )


class RlsReason(Reason):
    """Why RLS mode refused a join, or ended a channel."""

    NOT_ATTACHED = (
        "the database is not attached yet; join again in a moment",
        "the server has waited 5 seconds for it",
    )
    UNAVAILABLE = (
        "the database cannot be asked now; join again in a moment",
        "stock clients join again by themselves, after a token's renewal too",
    )
    TOO_SLOW = (
        "the database takes too long to check this; join again later, or use filters whose values "
        "are checked faster",
        "a column's type may have checks of its own",
    )
    NO_ROLE = "the token has no role; its claim 'role' must name a role of the database"
    NESTED_TOO_DEEPLY = "the token's claims are nested too deeply"
    NUL = (
        "a claim of the token has the character U+0000, which PostgreSQL's JSON cannot have",
        "leave it out of the token",
    )
    UNKNOWN_ROLE = "there is no role {role!r} in the database"
    MAY_NOT_ACT = (
        "this server may not act as role {role!r}",
        "run the `GRANT` line in the server's log",
    )
    ROW_FILTER = (
        "table {table} has a row filter in the publication, which OUTPUT_PLUGIN=wal2json does not "
        "apply"
    )
    NOT_THERE = (
        "there is no table {table} that role {role!r} may SELECT from",
        "the same for one that is not there and one that is hidden",
    )
    NO_COLUMN = "no column of {table} that role {role!r} may SELECT is published"
    POSTGRES = (
        "{message}",
        "PostgreSQL's message, for example about a value that the column's type cannot have",
    )
    OLD = "old. cannot be used in RLS mode: the row's former values may have been somebody else's"
    LEAVES = (
        "leaves cannot be used in RLS mode: the row's former values may have been somebody else's"
    )
    TRUNCATE = "TRUNCATE cannot be told in RLS mode: nobody can say who could see the rows"


class TokenReason(Reason):
    """Why a token is not accepted."""

    NOT_GIVEN = "no token was given"
    NO_STRING = "no token was given, or it is not a string"
    NO_TOKEN = "the token is not a JSON Web Token, or too long"
    HEADER = "the token's header is not a JSON object"
    TYPE = "the token's header has no typ of JWT"
    CRITICAL = (
        "the token's header has a critical extension",
        "the claim `crit` asks for what this server does not know",
    )
    KEY_ID = "the token's kid names no key of this server"
    ALGORITHM = "the token's alg is not one that its key is for"
    SIGNATURE = (
        "the token's signature does not fit",
        "it was signed with another key, or changed",
    )
    NO_JSON = "the token's claims are not JSON"
    NO_OBJECT = "the token's claims are not a JSON object"
    NAMED_TWICE = (
        "the token's claims have a member twice",
        "at any depth: readers differ in which of the two they take",
    )
    NESTED_TOO_DEEPLY = "the token's claims are nested too deeply"
    HALF_CHARACTER = (
        "the token's claims have half of a surrogate pair",
        'a claim is cut off within a character, as `"\\ud83d"` is',
    )
    CLAIM = (
        "the token's claim {name!r} is missing or not what it must be",
        "`JWT_CLAIM_VALIDATORS`",
    )
    NO_EXPIRY = "the token's exp is missing, or is not a whole number of seconds"
    NO_TIME = "the token's exp or nbf is not a time"
    NOT_YET = (
        "the token's nbf has not come yet",
        "the clocks of whoever makes tokens and of the server differ, or the token is for later",
    )
    EXPIRED = "the token has expired"


class CloseReason(Reason):
    """Why the server closed a connection.

    Attributes:
        code: the WebSocket close code (RFC 6455, section 7.4.1).
    """

    def __init__(self, code: int, template: str, remedy: str = "") -> None:
        super().__init__(template, remedy)
        self.code = code

    IDLE = 1000, "no message within the idle time"
    BINARY_IN_V1 = 1003, "a binary frame; with vsn=1.0.0 all are text"
    BINARY_KIND = 1003, "a binary frame with {kind}; clients push in kinds 3 and 0"
    BINARY_HEADER = 1008, "a binary frame that ends within its header"
    BINARY_LENGTHS = 1008, "a binary frame that is shorter than its lengths say"
    BINARY_ENCODING = 1008, "a binary frame with encoding {encoding}; it is 0 or 1"
    BINARY_NAMES = 1007, "a binary frame whose names are not UTF-8"
    NO_JSON = 1007, "the message is not JSON"
    NO_OBJECT = 1008, "a message is an object with topic, event, payload and ref", "V1"
    NO_ARRAY = 1008, "a message is an array [join_ref, ref, topic, event, payload]", "V2"
    NO_STRINGS = 1008, "topic and event must be strings"
    REF = 1008, "ref must be a string, a number or null"
    REF_TOO_LARGE = 1008, "ref is too large a number"
    MESSAGES = 1008, "more than {most} messages a second (MAX_MESSAGES_PER_SECOND)"
    RESTART = 1012, "the server restarts"
