"""The server with a check that is skipped on purpose: whoever looks for leaks has to find it.

    SKIPPED=filters python -m tests.fuzz.rls.faults --dev

This alone knows the server from within. It is run as a process of its own, never imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import attrs

from realtime_core import Change, Delete, Event, Record, Truncate
from realtime_core.sources import _pgoutput_plugin
from realtime_server.__main__ import main
from realtime_server.config.database.tables import Table
from realtime_server.fanout.groups import BoundDelivery
from realtime_server.fanout.hub import Hub
from realtime_server.replay.identity import Key, Visitor
from realtime_server.rls import catch_up_publisher, checker
from realtime_server.rls.checker import Checker
from realtime_server.rls.lookup import deleted_rows
from realtime_server.rls.lookup.questions import Question, VisibilityAnswer
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.payloads import View
from realtime_server.rls.reader import BatchReader
from realtime_server.rls.subscription_table import Registration
from realtime_server.rls.subscriptions import SubscriptionRegistry
from realtime_server.rls.table_check import TableCheck
from realtime_server.rls.viewers import Viewer


def skip_visibility() -> None:
    """Show every row to everybody."""

    async def check(
        self: Visibility, rows: Any, questions: Sequence[Question], **_: Any
    ) -> list[VisibilityAnswer]:
        return [VisibilityAnswer(visible=set(question.places)) for question in questions]

    Visibility.check = check  # type: ignore[method-assign]


def skip_claims() -> None:
    """Ask for each role once, with one viewer's claims, and answer all others the same."""
    check = Visibility.check

    async def check_as_the_first(
        self: Visibility, rows: Any, questions: Sequence[Question], **more: Any
    ) -> list[VisibilityAnswer]:
        first: dict[str, Any] = {}
        asked = [
            attrs.evolve(one, viewer=first.setdefault(one.viewer.role, one.viewer))
            for one in questions
        ]
        return await check(self, rows, asked, **more)

    Visibility.check = check_as_the_first  # type: ignore[method-assign]


def skip_one_in_a_hundred() -> None:
    """Show every hundredth row that a viewer does not see, and none of the rest."""
    check = Visibility.check
    count = 0

    async def check_mostly(
        self: Visibility, rows: Any, questions: Sequence[Question], **more: Any
    ) -> list[VisibilityAnswer]:
        nonlocal count
        answers = await check(self, rows, questions, **more)
        for question, answer in zip(questions, answers, strict=True):
            for place in question.places:
                if place not in answer.visible:
                    count += 1
                    if count % 100 == 0:
                        answer.visible.add(place)
        return answers

    Visibility.check = check_mostly  # type: ignore[method-assign]


def skip_delivery() -> None:
    """Keep every hundredth row from who sees it."""
    check = Visibility.check
    count = 0

    async def check_mostly(
        self: Visibility, rows: Any, questions: Sequence[Question], **more: Any
    ) -> list[VisibilityAnswer]:
        nonlocal count
        answers = await check(self, rows, questions, **more)
        for answer in answers:
            for place in list(answer.visible):
                count += 1
                if count % 100 == 0:
                    answer.visible.discard(place)
        return answers

    Visibility.check = check_mostly  # type: ignore[method-assign]


def skip_privileges() -> None:
    """Show every column of a table to who may SELECT any."""
    columns_of = TableCheck._columns_of

    def all_columns_of(self: TableCheck, role: str) -> Any:
        found = columns_of(self, role)
        return found and tuple(one for one in self._table.columns if one.name in self._published)

    TableCheck._columns_of = all_columns_of  # type: ignore[method-assign]


def skip_filters() -> None:
    """Let every row pass each filter that is asked about it."""
    deliveries = Hub.deliveries

    def deliveries_to_all(self: Hub, change: Change, *, filtered: bool = True) -> Any:
        return deliveries(self, change, filtered=False)

    Hub.deliveries = deliveries_to_all  # type: ignore[method-assign]


def skip_old_rows() -> None:
    """Show the whole old row, under row level security too."""
    init = View.__init__

    def init_showing(self: View, *args: Any, hides_old: bool, **more: Any) -> None:
        init(self, *args, hides_old=False, **more)

    View.__init__ = init_showing  # type: ignore[method-assign]


def skip_deleted() -> None:
    """Let filters see all of a deleted row."""
    View.known_of_old = property(lambda self: None)  # type: ignore[assignment]


def skip_deleted_beside_others() -> None:
    """Let them see it where a binding without a filter gets the same."""
    BoundDelivery.has_filters = BoundDelivery.is_filtered  # type: ignore[method-assign]


def skip_versions() -> None:
    """Under RLS_STRICT, show rows that are others by now."""
    look_up = TableCheck._look_up

    def look_up_any(self: TableCheck, place: int, role: str, viewers: Any, strict: bool) -> None:
        look_up(self, place, role, viewers, False)

    TableCheck._look_up = look_up_any  # type: ignore[method-assign]


def skip_policies_of_deleted() -> None:
    """Under RLS_DELETE=policy, show deleted rows to all."""
    deleted_rows._combined = lambda policies: "true"


def skip_restrictive_of_deleted() -> None:
    """Under RLS_DELETE=policy, leave out restrictive policies."""
    combined = deleted_rows._combined
    deleted_rows._combined = lambda policies: combined([one for one in policies if one[0]])


def skip_row_filters() -> None:
    """With wal2json, show changes of tables that have a row filter."""
    published = checker._published

    def published_by_kind(candidates: Any, places: Any, table: Table) -> list[int]:
        return published(candidates, places, attrs.evolve(table, has_row_filter=False))

    checker._published = published_by_kind


def skip_column_lists() -> None:
    """With wal2json, show columns that are not published."""
    init = TableCheck.__init__

    def init_with_all(self: TableCheck, table: Table, *args: Any, **more: Any) -> None:
        every = frozenset(column.name for column in table.columns)
        init(self, attrs.evolve(table, published=every), *args, **more)

    TableCheck.__init__ = init_with_all  # type: ignore[method-assign]


def skip_publications() -> None:
    """With pgoutput, stream all tables, without row filters and column lists."""
    options = _pgoutput_plugin.pgoutput_options

    def options_of_everything(publications: Any, **more: Any) -> dict[str, str]:
        return options(["everything"], **more)

    _pgoutput_plugin.pgoutput_options = options_of_everything


def skip_truncate() -> None:
    """Tell a TRUNCATE as a DELETE."""
    take = BatchReader._take

    def take_as_delete(self: BatchReader, events: Sequence[Event]) -> None:
        told: list[Event] = []
        for event in events:
            if isinstance(event, Truncate):
                told += (
                    Delete(
                        event.transaction,
                        event.index,
                        one,
                        Record(one.shape, (None,) * len(one.shape.names)),
                    )
                    for one in event.relations
                )
            else:
                told.append(event)
        take(self, told)

    BatchReader._take = take_as_delete  # type: ignore[method-assign]


def skip_replaced_token() -> None:
    """Go on in the name of the token that a channel had at first."""

    async def keep(self: SubscriptionRegistry, registration: Registration, claims: Any) -> Viewer:
        return registration.viewer

    SubscriptionRegistry.renew = keep  # type: ignore[method-assign]


def skip_replayed_visibility() -> None:
    """Show whoever comes back each row that still is as the change says."""

    class ShowingAll(Visibility):
        async def check(
            self, rows: Any, questions: Sequence[Question], **_: Any
        ) -> list[VisibilityAnswer]:
            return [VisibilityAnswer(visible=set(question.places)) for question in questions]

    catch_up_publisher.Visibility = ShowingAll  # type: ignore[misc]


def skip_replayed_token() -> None:
    """Ask in the name of the first token that a user came back with."""
    first: dict[str, Viewer] = {}

    class AskingAsTheFirst(Visibility):
        async def check(
            self, rows: Any, questions: Sequence[Question], **more: Any
        ) -> list[VisibilityAnswer]:
            asked = [
                attrs.evolve(one, viewer=first.setdefault(_user(one.viewer), one.viewer))
                for one in questions
            ]
            return await super().check(rows, asked, **more)

    catch_up_publisher.Visibility = AskingAsTheFirst  # type: ignore[misc]


def _user(viewer: Viewer) -> str:
    return f"{viewer.role} {json.loads(viewer.claims).get('sub')}"


def skip_replayed_versions() -> None:
    """Show whoever comes back versions of a row that is another by now."""

    class NotComparing(Checker):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "strict": False})

    catch_up_publisher.Checker = NotComparing  # type: ignore[misc]


def skip_replayed_rows() -> None:
    """Keep every hundredth row from who comes back and sees it."""
    count = 0

    class HidingSome(Visibility):
        async def check(
            self, rows: Any, questions: Sequence[Question], **more: Any
        ) -> list[VisibilityAnswer]:
            nonlocal count
            answers = await super().check(rows, questions, **more)
            for answer in answers:
                for place in list(answer.visible):
                    count += 1
                    if count % 100 == 0:
                        answer.visible.discard(place)
            return answers

    catch_up_publisher.Visibility = HidingSome  # type: ignore[misc]


def skip_replayed_subject() -> None:
    """Go on in anybody's name where a client of the same session was."""

    def key_of_session(self: Visitor, claims: Any, topic: str, bindings: Any) -> Key | None:
        return key(self, {"sub": "anybody"}, topic, bindings)

    key = Visitor.key
    Visitor.key = key_of_session  # type: ignore[method-assign]


FAULTS = {
    name.removeprefix("skip_"): skip
    for name, skip in list(globals().items())
    if name.startswith("skip_")
}

if __name__ == "__main__":
    FAULTS[os.environ["SKIPPED"]]()
    main()
