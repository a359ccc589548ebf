"""A look at some changes: what PostgreSQL says of them, and what follows for a subscriber."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tests.fuzz.rls.clients import Binding, Viewer
from tests.fuzz.rls.rules import SEEN, UNSEEN, Change, Expected, State, expect

__all__ = ["Look"]


@attrs.frozen
class Look:
    """Changes, and all that PostgreSQL says of them at one time."""

    changes: Sequence[Change]
    """In order."""
    states: Mapping[str, State]
    """The tables by name."""
    _sight: Mapping[Viewer, Mapping[str, Mapping[str, frozenset[bool | None]]]]
    """By viewer, table and key: what may come of a SELECT of the row."""
    _deleted: Mapping[tuple[Viewer, int], frozenset[bool | None]]
    """By viewer and change: the same of a row that was deleted."""
    _is_strict: bool

    def expect(
        self,
        binding: Binding,
        viewer: Viewer,
        change: Change,
        *,
        is_sure: bool = False,
        is_strict: bool | None = None,
    ) -> Expected:
        """Say what a subscriber is to be told of a change.

        Args:
            binding: it listens to such changes.
            viewer: in whose name.
            change: one of :attr:`changes`.
            is_sure: whether the viewer is told of each failure.
            is_strict: whether it is told only of rows that still are as the change says; None: as
                the server is set.
        """
        state = self.states[change.table.name]
        if not (self._is_strict if is_strict is None else is_strict):
            change = attrs.evolve(change, likeness={})
        if change.kind == "DELETE":
            seen = self._deleted.get((viewer, change.number), SEEN)
        else:
            seen = self._sight[viewer].get(change.table.name, {}).get(change.key, UNSEEN)
        return expect(binding, viewer, change, state, seen, is_sure)
