"""MakesSync: the class method by which every source makes a SyncSource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from ..changes import Begin, Change, Commit, Event, Gap, Idle
from ..snapshot import SnapshotEvent
from .stream_options import StartAt

if TYPE_CHECKING:
    from .sync import SyncSource

__all__ = ["MakesSync"]


class MakesSync:
    """A source that programs without an event loop may read, too."""

    # Which kinds of events come follows from four options, as for the asynchronous sources. Type
    # checkers leave the other options to the constructor, which checks them as it runs.
    @overload
    @classmethod
    def sync(
        cls, *args: Any, snapshot: Literal["initial", "when_needed"], **options: Any
    ) -> SyncSource[Event | SnapshotEvent]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Any,
    ) -> SyncSource[Change | Idle]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        **options: Any,
    ) -> SyncSource[Change]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: StartAt,
        **options: Any,
    ) -> SyncSource[Change | Gap | Idle]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        **options: Any,
    ) -> SyncSource[Change | Gap]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Any,
    ) -> SyncSource[Change | Begin | Commit | Idle]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        **options: Any,
    ) -> SyncSource[Change | Begin | Commit]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        start_at: StartAt,
        **options: Any,
    ) -> SyncSource[Change | Begin | Commit | Gap | Idle]: ...
    @overload
    @classmethod
    def sync(
        cls,
        *args: Any,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        **options: Any,
    ) -> SyncSource[Change | Begin | Commit | Gap]: ...
    @overload
    @classmethod
    def sync(cls, *args: Any, **options: Any) -> SyncSource[Event]: ...

    @classmethod
    def sync(cls, *args: Any, **options: Any) -> SyncSource[Any]:
        """Make a source for programs without an event loop: see :class:`SyncSource`.

        Args:
            args: the arguments of the class.
            options: its keyword arguments.

        Raises:
            ConfigError: if the arguments cannot work.
            TypeError: if an argument has a wrong type, or there is no option of that name.
        """
        from .sync import SyncSource

        return SyncSource(cls(*args, **options))  # type: ignore[arg-type]
