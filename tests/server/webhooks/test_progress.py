"""Progress: the slot moves behind what is done with, and never further."""

from __future__ import annotations

from random import Random

import attrs
import pytest

from realtime_core import LSN, Commit
from realtime_server.webhooks.progress import Progress, Share
from tests.alive import alive
from tests.server_helpers import TRANSACTION


def commit(number: int) -> Commit:
    return Commit(attrs.evolve(TRANSACTION, commit_lsn=LSN(number)), LSN(number + 1), 1)


class Books:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.progress = Progress(lambda end: self.acknowledged.append(end.transaction.commit_lsn))

    def read(self, number: int, requests: int) -> Share:
        share = self.progress.begin()
        for _ in range(requests):
            share.add()
        self.progress.end(share, commit(number))
        return share


def test_a_transaction_without_requests_is_done_at_once() -> None:
    books = Books()
    books.read(1, 0)
    assert books.acknowledged == [1]


def test_a_transaction_is_done_when_its_last_request_is() -> None:
    books = Books()
    share = books.read(1, 2)
    share.done()
    assert books.acknowledged == []
    share.done()
    assert books.acknowledged == [1]


def test_what_is_done_waits_for_what_is_before_it() -> None:
    books = Books()
    first, second = books.read(1, 1), books.read(2, 1)
    books.read(3, 0)
    second.done()
    assert books.acknowledged == []
    first.done()
    assert books.acknowledged == [3]


def test_requests_may_be_done_before_the_transaction_ends() -> None:
    books = Books()
    share = books.progress.begin()
    share.add()
    share.done()
    assert books.acknowledged == []
    books.progress.end(share, commit(1))
    assert books.acknowledged == [1]


@pytest.mark.slow
def test_transactions_without_requests_take_no_place() -> None:
    books = Books()
    share = books.read(1, 1)
    before = alive(Share)
    for number in range(2, 10_000):
        books.read(number, 0)
    assert alive(Share) == before
    share.done()
    assert books.acknowledged == [9_999]


def test_what_is_before_a_gap_holds_what_is_behind_it() -> None:
    """The slot may be the same behind the gap."""
    books = Books()
    share = books.read(1, 1)
    cut = books.progress.begin()
    cut.add()
    books.progress.cut(cut)
    behind = books.read(3, 1)
    behind.done()
    assert books.acknowledged == []
    share.done()
    assert books.acknowledged == [1]
    cut.done()
    assert books.acknowledged == [1, 3]


def test_a_transaction_whose_end_was_lost_is_not_acknowledged() -> None:
    books = Books()
    share = books.read(1, 1)
    cut = books.progress.begin()
    cut.add()
    books.progress.cut(cut)
    cut.done()
    share.done()
    assert books.acknowledged == [1]
    alone = books.progress.begin()
    alone.add()
    books.progress.cut(alone)
    alone.done()
    assert books.acknowledged == [1]


def test_it_never_passes_what_is_not_done() -> None:
    random = Random(1)
    for _ in range(300):
        books = Books()
        wanted = [random.choice((0, 0, 1, 2, 3)) for _ in range(20)]
        open_requests: list[tuple[int, Share]] = []
        left = dict(enumerate(wanted, 1))
        for number, requests in left.items():
            share = books.read(number, requests)
            open_requests += [(number, share)] * requests
            while open_requests and random.random() < 0.5:
                done, share = open_requests.pop(random.randrange(len(open_requests)))
                left[done] -= 1
                share.done()
            read = range(1, number + 1)
            first_open = next((each for each in read if left[each]), number + 1)
            assert (books.acknowledged or [0])[-1] == first_open - 1
