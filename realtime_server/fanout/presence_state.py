"""PresenceState: who is present in one room, as its members are shown it.

Each member that tracks itself has one entry, which belongs to the server that the member is
connected to. So two servers never change the same entry, and the room's state is what all of them
have, put together.

What members are shown changes in flushes alone. :meth:`PresenceState.flush` compares what was shown
with what is there now: what came and went in between is never told, and what changed more than once
is told once. A member that is given the state after a flush, and from then on each flush's diff,
has the room's state.

A room of thousands takes a while to compare and to render: both are done in pieces, between which
members may come, go and change. A piece is :data:`PIECE` entries.

It knows no clock, no sockets, and not who gets what it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Generator, Mapping
from typing import Final, NamedTuple, TypeAlias

from ..phoenix.messages import REF, REF_BEFORE

__all__ = ["PIECE", "Entry", "Flush", "Node", "PresenceState"]

PIECE: Final = 500
"""Entries that are compared or rendered without a pause: for a millisecond, about."""

Node: TypeAlias = tuple[str, int]
"""A server: its name, and which of its lives it is."""
_Owner: TypeAlias = tuple[Node, int]

_REF: Final = f'"{REF}":"'.encode()
_REF_BEFORE: Final = f'","{REF_BEFORE}":"'.encode()
_AROUND: Final = 56
"""Bytes of the state around an entry's key, metadata and ref, at most, with the ref before."""
_NOTHING: Final[dict[int, Entry]] = {}


class Entry:
    """What one member tracks.

    Args:
        key: its key, as JSON; several members may have the same.
        meta: what it tracks: a JSON object without refs.
        ref: names this version of it, and no other.
    """

    # A large room has thousands, and renders all of them.
    __slots__ = ("_head", "before", "key", "ref")

    def __init__(self, key: bytes, meta: bytes, ref: str) -> None:
        self.key = key
        """Its key, as JSON."""
        self.ref = ref
        """Names this version of it."""
        self.before = ""
        """The ref of the version that was shown before it; empty: none."""
        # The metadata, and the ref behind it, but for what closes them.
        comma = b"," if len(meta) > 2 else b""
        self._head = b"%b%b%b%b" % (meta[:-1], comma, _REF, ref.encode())

    @property
    def meta(self) -> bytes:
        """What it tracks: a JSON object without refs."""
        meta = self._head[: -len(_REF) - len(self.ref)]
        return meta.removesuffix(b",") + b"}"

    @property
    def size(self) -> int:
        """Bytes that it takes in the state, at most."""
        return len(self.key) + len(self._head) + _AROUND

    def rendered(self) -> bytes:
        """Return it as one of the ``metas`` of its key."""
        if self.before:
            return b'%b%b%b"}' % (self._head, _REF_BEFORE, self.before.encode())
        return self._head + b'"}'


class Flush(NamedTuple):
    """What changed with one flush."""

    diff: bytes
    """The payload of the diff; empty if nothing changed that was shown, or is."""
    own: Mapping[int, Entry | None]
    """What changed of this server's own entries, by membership; None: gone."""


class PresenceState:
    """The entries of one room, by server.

    Args:
        own: this server.
    """

    __slots__ = ("_changed", "_nodes", "_own", "_shown", "members", "size")

    def __init__(self, own: Node) -> None:
        self._own = own
        self._nodes: dict[Node, dict[int, Entry]] = {own: {}}
        # What is shown, by key; and of entries that have changed since, what was shown of each.
        self._shown: dict[bytes, dict[_Owner, Entry]] = {}
        self._changed: dict[_Owner, Entry | None] = {}
        self.members = 0
        """How many members there are now, of all servers."""
        self.size = 0
        """How many bytes the state would take now, at most."""

    @property
    def changes(self) -> int:
        """How many entries have changed since the last flush."""
        return len(self._changed)

    @property
    def own(self) -> Mapping[int, Entry]:
        """This server's entries now, by membership."""
        return self._nodes[self._own]

    def get(self, membership: int, node: Node | None = None) -> Entry | None:
        """Return what a member of a server tracks.

        Args:
            membership: which of its server's it is.
            node: its server; None: this one.
        """
        return self._nodes.get(self._own if node is None else node, {}).get(membership)

    def put(self, membership: int, entry: Entry | None, node: Node | None = None) -> None:
        """Note what a member tracks from now on; None: nothing any more.

        Args:
            membership: which of its server's it is.
            entry: a new one, which nobody else holds.
            node: its server; None: this one.
        """
        node = self._own if node is None else node
        entries = self._nodes.setdefault(node, {})
        former = entries.get(membership)
        if former is None:
            if entry is None:
                return
            self.members += 1
        else:
            if entry is not None and entry.ref == former.ref:
                return
            self.size -= former.size
        self._changed.setdefault((node, membership), former)
        if entry is None:
            del entries[membership]
            self.members -= 1
        else:
            entries[membership] = entry
            self.size += entry.size

    def keep(self, node: Node, memberships: Container[int]) -> None:
        """Note that another server's members track nothing any more, but for some of them."""
        entries = self._nodes.get(node, {})
        for membership in [each for each in entries if each not in memberships]:
            self.put(membership, None, node)
        if not entries:
            self._nodes.pop(node, None)

    def flushing(self) -> Generator[None, None, Flush]:
        """Show what there is, in pieces: it ends before the next flush begins."""
        joins: dict[bytes, list[Entry]] = {}
        leaves: dict[bytes, list[Entry]] = {}
        own: dict[int, Entry | None] = {}
        nodes = self._nodes
        changed, self._changed = self._changed, {}
        for number, (owner, shown) in enumerate(changed.items(), 1):
            if not number % PIECE:
                yield
            # What has changed meanwhile is shown as it is now.
            self._changed.pop(owner, None)
            node, membership = owner
            entry = nodes.get(node, _NOTHING).get(membership)
            if entry is shown:
                # It came and went.
                continue
            if node == self._own:
                own[membership] = entry
            if shown is not None:
                leaves.setdefault(shown.key, []).append(shown)
                self._hide(owner, shown.key)
            if entry is not None:
                entry.before = "" if shown is None else shown.ref
                joins.setdefault(entry.key, []).append(entry)
                self._shown.setdefault(entry.key, {})[owner] = entry
        diff = b""
        if joins or leaves:
            come = yield from _by_key(joins)
            gone = yield from _by_key(leaves)
            diff = b'{"joins":%b,"leaves":%b}' % (come, gone)
        return Flush(diff, own)

    def _hide(self, owner: _Owner, key: bytes) -> None:
        entries = self._shown[key]
        del entries[owner]
        if not entries:
            del self._shown[key]

    def rendering(self) -> Generator[None, None, bytes]:
        """Return what is shown, as the payload of a state, made in pieces: no flush comes
        meanwhile."""
        return _by_key({key: entries.values() for key, entries in self._shown.items()})


def _by_key(entries: Mapping[bytes, Collection[Entry]]) -> Generator[None, None, bytes]:
    found = []
    left = PIECE
    for key, each in entries.items():
        if len(each) < left:
            left -= len(each)
            metas = [*map(Entry.rendered, each)]
        else:
            metas = []
            for entry in each:
                left -= 1
                if left <= 0:
                    yield
                    left = PIECE
                metas.append(entry.rendered())
        found.append(b'%b:{"metas":[%b]}' % (key, b",".join(metas)))
    return b"{%b}" % b",".join(found)
