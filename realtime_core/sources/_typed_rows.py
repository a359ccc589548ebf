"""TypedRows: has a source hand over rows as objects of an application's own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from ..changes import CommittedTransaction, Delete, Insert, Relation, Update
from ..errors import ConfigError, RowStructureError, ValueConversionError
from ..records import Record
from ..snapshot import Snapshot

__all__ = ["OnMisfit", "RowClasses"]

OnMisfit: TypeAlias = (
    Literal["raise", "record"] | Callable[[RowStructureError | ValueConversionError], Any]
)
"""What a typed source does with a row that does not fit its class."""

_MOST_RELATIONS: Final = 1000
"""How many relations' classes are remembered."""


class RowClasses:
    """Makes objects of the rows of some tables, and leaves the others as they are.

    Args:
        classes: the classes, by ``schema.table``.
        on_error: what to do with a row that does not fit: see :meth:`EventQueue.typed`.

    Raises:
        ConfigError: if a name has no schema, or ``on_error`` is none of the three.
    """

    def __init__(self, classes: Mapping[str, type], on_error: OnMisfit) -> None:
        # Streaming alone needs no cattrs.
        from .._structure import check_class

        problems = [
            f"typed() takes classes by 'schema.table', not by {table!r}"
            for table in classes
            if "." not in table
        ]
        if on_error not in ("raise", "record") and not callable(on_error):
            problems.append(f"on_error is 'raise', 'record' or a function, not {on_error!r}")
        for kind in classes.values():
            try:
                check_class(kind)
            except TypeError as exc:
                problems.append(str(exc))
        if problems:
            raise ConfigError(problems)
        self._classes = dict(classes)
        self._on_error = on_error
        # By relation, because making the name of one takes as long as a row.
        self._found: dict[Relation, type | None] = {}

    def event(self, event: Any) -> Any:
        """Return an event with objects for its rows.

        Raises:
            RowStructureError: if a row does not fit its class, and ``on_error`` does not say what
                stands for it.
            ValueConversionError: if a value has no Python value, likewise.
        """
        match event:
            case Insert(transaction, index, relation, record):
                kind = self._class_of(relation)
                if kind is not None:
                    return Insert(transaction, index, relation, self._object(record, kind))
            case Update(transaction, index, relation, record, old):
                kind = self._class_of(relation)
                if kind is not None:
                    new = self._object(record, kind)
                    old = self._old(relation, old, kind)
                    return Update(transaction, index, relation, new, old)
            case Delete(transaction, index, relation, old):
                kind = self._class_of(relation)
                if kind is not None:
                    return Delete(transaction, index, relation, self._old(relation, old, kind))
            case Snapshot(relation, record, progress):
                kind = self._class_of(relation)
                if kind is not None:
                    return Snapshot(relation, self._object(record, kind), progress)
            case CommittedTransaction(transaction, changes, position):
                return CommittedTransaction(
                    transaction, tuple([self.event(change) for change in changes]), position
                )
        return event

    def batch(self, events: Iterable[Any]) -> tuple[list[Any], Any]:
        """Return events with objects for their rows, up to the first row that does not fit.

        Returns:
            The events, and the one that does not fit, or None.

        Raises:
            RowStructureError: if the row of the first event does not fit.
            ValueConversionError: likewise.
        """
        made: list[Any] = []
        for event in events:
            try:
                made.append(self.event(event))
            except (RowStructureError, ValueConversionError):
                if not made:
                    raise
                return made, event
        return made, None

    def _class_of(self, relation: Relation) -> type | None:
        try:
            return self._found[relation]
        except KeyError:
            pass
        if len(self._found) >= _MOST_RELATIONS:
            self._found.clear()
        kind = self._found[relation] = self._classes.get(str(relation))
        return kind

    def _object(self, record: Record, kind: type) -> Any:
        try:
            return record.structure(kind)
        except (RowStructureError, ValueConversionError) as error:
            if self._on_error == "raise":
                raise
            if self._on_error == "record":
                return record
            return self._on_error(error)

    def _old(self, relation: Relation, record: Record | None, kind: type) -> Any:
        if record is None or len(record.fields) != len(relation.columns):
            # It has the columns of the replica identity alone.
            return record
        return self._object(record, kind)
