"""Where held transactions wait: memory up to a bound, then a file that nobody else sees.

Linux tells what a process has open, so most of it is looked up in /proc.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Change,
    Commit,
    ConfigError,
    DecodeError,
    Delete,
    Insert,
    SpillError,
    Truncate,
    Update,
)
from realtime_core.pgoutput import (
    Assembler,
    BeginPrepareMessage,
    CommitPreparedMessage,
    Decoder,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    PrepareMessage,
    RelationColumn,
    RelationMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    UpdateMessage,
)
from realtime_core.pgoutput.spill import FileSpillStore, Held, Spill
from tests.pgoutput_encoder import encode

STOP = StreamStopMessage()
COLUMNS = tuple(RelationColumn(0, name, 25, -1) for name in ("id", "text"))
COMMIT = StreamCommitMessage(10, 0, LSN(100), LSN(108), 0)
PREPARE = (
    BeginPrepareMessage(LSN(100), LSN(108), 0, 10, "g"),
    RelationMessage(16385, "public", "t", "d", COLUMNS),
    InsertMessage(16385, ("1", "prepared")),
    PrepareMessage(0, LSN(100), LSN(108), 0, 10, "g"),
)


def start(xid: int = 10) -> tuple[Message, ...]:
    return (
        StreamStartMessage(xid, True),
        RelationMessage(16385, "public", "t", "d", COLUMNS, xid),
    )


def row(number: int, text: str | None = "x", xid: int = 10) -> InsertMessage:
    return InsertMessage(16385, (str(number), text), xid)


def feed(assembler: Assembler, *messages: Message) -> list[Change | Begin | Commit]:
    return [event for message in messages for event in assembler.feed(message)]


class Files:
    """The files in a folder that this process has open, whatever their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FileSpillStore(folder)

    def __iter__(self) -> Iterator[int]:
        device = os.stat(self.folder).st_dev
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
                status = os.fstat(int(name))
            except OSError:
                continue
            if target.startswith(str(self.folder)) and status.st_dev == device:
                yield int(name)

    def __len__(self) -> int:
        return len(list(iter(self)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# The file


def test_a_spill_has_no_name_and_nobody_else_may_read_it(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start(), row(1))
    (descriptor,) = files
    status = os.fstat(descriptor)
    assert status.st_nlink == 0
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size > 0
    assert list(files.folder.iterdir()) == []
    assembler.close()


def test_nothing_is_opened_before_the_bound_is_reached(files: Files) -> None:
    assembler = Assembler(max_memory=100_000, spill_store=files.store)
    feed(assembler, *start(), *(row(number) for number in range(100)))
    assert len(files) == 0
    feed(assembler, *(row(number) for number in range(1000)))
    assert len(files) == 1
    assembler.close()


@pytest.mark.parametrize(
    "end",
    [COMMIT, StreamAbortMessage(10, 10)],
    ids=["after its commit", "after its rollback"],
)
def test_a_spill_is_gone_when_its_transaction_has_ended(files: Files, end: Message) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start(), row(1), STOP)
    assert len(files) == 1
    feed(assembler, end)
    assert len(files) == 0


def test_a_spill_is_gone_when_its_prepared_transaction_has_ended(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *PREPARE)
    assert len(files) == 1
    feed(assembler, CommitPreparedMessage(0, LSN(200), LSN(208), 0, 10, "g"))
    assert len(files) == 0


def test_closing_the_assembler_drops_every_spill(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *PREPARE, *start(11), row(1, xid=11), STOP, *start(12), row(2, xid=12))
    assert len(files) == 3
    assembler.close()
    assert len(files) == 0


@pytest.mark.slow
def test_an_assembler_that_is_let_go_leaves_nothing(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start(), row(1))
    del assembler
    gc.collect()
    assert len(files) == 0


@pytest.mark.slow
def test_a_commit_that_nobody_reads_leaves_nothing(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start(), row(1), row(2), STOP)
    unread = assembler.feed(COMMIT)
    del unread
    gc.collect()
    assert len(files) == 0
    feed(assembler, *start(), row(1), row(2), STOP)
    half = iter(assembler.feed(COMMIT))
    assert isinstance(next(half), Begin)
    assert len(files) == 1
    del half
    gc.collect()
    assert len(files) == 0


def test_an_error_drops_every_spill(files: Files) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *PREPARE, *start(11), row(1, xid=11), STOP)
    with pytest.raises(DecodeError):
        feed(assembler, STOP)
    assert len(files) == 0


KILLED = """
import sys
from realtime_core.pgoutput import Assembler
from realtime_core.pgoutput.spill import FileSpillStore
from tests.core.pgoutput.test_spill import feed, row, start
assembler = Assembler(max_memory=0, spill_store=FileSpillStore(sys.argv[1]))
feed(assembler, *start(), *(row(number, "x" * 1000) for number in range(2000)))
print("spilled", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing(files: Files) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(files.folder)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "spilled\n"
        open_files = Path(f"/proc/{process.pid}/fd")
        (spill,) = (path for path in open_files.iterdir() if str(files.folder) in os.readlink(path))
        assert spill.stat().st_size > 2_000_000
        assert list(files.folder.iterdir()) == []
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert list(files.folder.iterdir()) == []


# What comes back


def test_every_kind_of_change_comes_back_as_it_went() -> None:
    messages = (
        *start(),
        row(1, "ünï 漢字 🚀"),
        row(2, None),
        InsertMessage(16385, (b"\x00\xff", ""), 10),
        UpdateMessage(16385, None, False, ("1", UNCHANGED), 10),
        UpdateMessage(16385, ("1", None), True, ("2", UNCHANGED), 11),
        UpdateMessage(16385, ("1", "old"), False, ("2", UNCHANGED), 11),
        DeleteMessage(16385, ("1", None), True, 10),
        DeleteMessage(16385, ("1", "old"), False, 10),
        TruncateMessage(3, (16385,), 10),
        LogicalMessageMessage(1, LSN(5), "p", b"\x00\xff", 10),
        STOP,
        COMMIT,
    )
    in_memory = feed(Assembler(), *messages)
    spilled = feed(Assembler(max_memory=0), *messages)
    assert [without_relation(event) for event in spilled] == [
        without_relation(event) for event in in_memory
    ]
    assert [type(event).__name__ for event in spilled[4:7]] == ["Update"] * 3
    assert isinstance(spilled[4], Update)
    assert spilled[4].record["text"] is UNCHANGED
    assert isinstance(spilled[6], Update)
    assert spilled[6].record["text"] == "old"


def without_relation(event: object) -> object:
    """Say what an event is without its relation, which is compared by identity."""
    match event:
        case Insert(transaction, index, relation, record):
            return ("I", transaction, index, str(relation), record)
        case Update(transaction, index, relation, record, old):
            return ("U", transaction, index, str(relation), record, old)
        case Delete(transaction, index, relation, old):
            return ("D", transaction, index, str(relation), old)
        case Truncate(transaction, index, relations, cascade, restart):
            return ("T", transaction, index, [str(each) for each in relations], cascade, restart)
        case _:
            return event


@pytest.mark.parametrize("max_memory", [0, 1, 1000, 5000, 100_000])
def test_transactions_that_take_turns_keep_apart_wherever_they_wait(max_memory: int) -> None:
    assembler = Assembler(max_memory=max_memory)
    feed(assembler, *start(10), STOP, *start(20), STOP)
    for turn in range(50):
        for xid in (10, 20):
            feed(
                assembler,
                StreamStartMessage(xid, False),
                row(turn, f"of {xid}", xid),
                row(turn, "undone", xid + 1 + turn),
                STOP,
                StreamAbortMessage(xid, xid + 1 + turn),
            )
    for xid in (20, 10):
        (begin, *changes, commit) = feed(
            assembler, StreamCommitMessage(xid, 0, LSN(xid), LSN(xid + 8), 0)
        )
        assert isinstance(begin, Begin)
        assert isinstance(commit, Commit)
        assert commit.changes == 50
        assert [
            (change.index, change.record.as_text())
            for change in changes
            if isinstance(change, Insert)
        ] == [(turn, {"id": str(turn), "text": f"of {xid}"}) for turn in range(50)]


def test_the_largest_transaction_makes_room_for_the_others(files: Files) -> None:
    assembler = Assembler(max_memory=100_000, spill_store=files.store)
    feed(assembler, *start(10), *(row(number) for number in range(200)), STOP)
    feed(assembler, *start(20), row(1, xid=20), STOP)
    feed(assembler, StreamStartMessage(10, False), *(row(number) for number in range(200)), STOP)
    assert len(files) == 1
    # Only the small one is all in memory: it needs no file to be handed over.
    feed(assembler, StreamCommitMessage(20, 0, LSN(20), LSN(28), 0))
    assert len(files) == 1
    assembler.close()


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_memory is -1"):
        Assembler(max_memory=-1)


# When the disk is full


class FullStore:
    """A disk with room for some writes."""

    def __init__(self, writes: int) -> None:
        self.writes = writes
        self.sizes: list[int] = []
        self.closed = 0

    def open(self) -> Spill:
        return FullSpill(self)


class FullSpill:
    def __init__(self, store: FullStore) -> None:
        self._store = store
        self._held: list[Held] = []

    def write(self, held: list[Held]) -> None:
        self._store.sizes.append(len(held))
        self._store.writes -= 1
        if self._store.writes < 0:
            raise SpillError("no room")
        self._held += held

    def read(self) -> Iterator[Held]:
        return iter(self._held)

    def close(self) -> None:
        self._store.closed += 1


@pytest.mark.slow
@pytest.mark.parametrize(("text", "most"), [("x", 1000), ("x" * 10_000, 101), ("x" * 2**20, 1)])
def test_memory_is_moved_to_the_disk_in_small_parts_as_it_is_needed(text: str, most: int) -> None:
    """Nothing else runs meanwhile: 64 MB at once take more than 100 ms."""
    store = FullStore(writes=1000)
    assembler = Assembler(max_memory=4 * 2**20, spill_store=store)
    feed(assembler, *start())
    count = 3 * 4 * 2**20 // (len(text) + 400)
    for number in range(count):
        before = len(store.sizes)
        feed(assembler, row(number, text))
        # A block makes room for the next one.
        assert len(store.sizes) - before <= 1
    assert len(store.sizes) > 2
    assert max(store.sizes) == most
    # What is still in memory comes last.
    events = feed(assembler, STOP, COMMIT)
    assert [event.record["id"] for event in events if isinstance(event, Insert)] == [
        str(number) for number in range(count)
    ]


def test_a_full_disk_hands_nothing_over_and_ends_the_assembler() -> None:
    store = FullStore(writes=2)
    assembler = Assembler(max_memory=0, spill_store=store)
    assert feed(assembler, *start(), row(1), row(2)) == []
    with pytest.raises(SpillError):
        assembler.feed(row(3))
    assert store.closed == 1
    for message in (STOP, COMMIT, row(4)):
        with pytest.raises(DecodeError, match="start with a new one"):
            assembler.feed(message)


def test_a_file_that_can_not_grow_is_a_spill_error(files: Files) -> None:
    """The bound of the process stands for the disk's: the write fails in the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start())
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SpillError, match="nothing of it was handed over") as caught:
            feed(assembler, *(row(number, "x" * 100) for number in range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert len(files) == 0


def test_a_full_device_is_a_spill_error_and_can_still_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: FileIO("/dev/full", "r+"))
    assembler = Assembler(max_memory=0, spill_store=FileSpillStore())
    feed(assembler, *start())
    with pytest.raises(SpillError) as caught:
        assembler.feed(row(1))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_folder_that_is_not_there_is_a_spill_error(tmp_path: Path) -> None:
    assembler = Assembler(max_memory=0, spill_store=FileSpillStore(tmp_path / "missing"))
    feed(assembler, *start())
    with pytest.raises(SpillError, match="missing"):
        assembler.feed(row(1))


@pytest.mark.parametrize("size", [0, 5, 100], ids=["a block missing", "a length cut", "a row cut"])
def test_a_spill_that_has_been_cut_is_an_error_before_the_commit(files: Files, size: int) -> None:
    assembler = Assembler(max_memory=0, spill_store=files.store)
    feed(assembler, *start(), row(1), row(2, "y" * 1000), STOP)
    (descriptor,) = files
    events = assembler.feed(COMMIT)
    assert isinstance(events, Iterator)
    seen = [next(events)]
    whole = os.fstat(descriptor).st_size
    os.truncate(descriptor, size)
    os.ftruncate(descriptor, whole if size == 0 else size)
    with pytest.raises(SpillError, match="cannot read back"):
        seen += events
    assert not any(isinstance(event, Commit) for event in seen)
    with pytest.raises(DecodeError, match="start with a new one"):
        assembler.feed(COMMIT)
    assert len(files) == 0


# Memory


@pytest.mark.parametrize(
    ("rows", "bound"),
    [
        (10_000, 512 * 1024),
        # About 20 MB as Python objects; 5,000,000 rows are in benchmarks/spill.py.
        pytest.param(40_000, 2 * 1024 * 1024, marks=pytest.mark.slow),
    ],
)
def test_a_large_streamed_transaction_stays_at_the_bound(
    files: Files, rows: int, bound: int
) -> None:
    decoder = Decoder()
    assembler = Assembler(max_memory=bound, spill_store=files.store)
    for message in start():
        assembler.feed(decoder.decode(encode(message)))
    tracemalloc.start()
    try:
        for number in range(rows):
            data = encode(row(number, f"the text of row {number}, as long as texts often are"))
            assert list(assembler.feed(decoder.decode(data))) == []
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        (descriptor,) = files
        assert os.fstat(descriptor).st_size > 50 * rows
        assembler.feed(decoder.decode(encode(STOP)))
        total = 0
        for event in assembler.feed(decoder.decode(encode(COMMIT))):
            if isinstance(event, Insert):
                assert event.index == total
                total += 1
        handed_over = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == rows
    assert len(files) == 0
    # One block, of 1 MB at most, is on its way besides: its bytes, and its changes.
    assert bound / 2 < held < bound + 1024 * 1024
    assert handed_over < bound + 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["", "x" * 10, "x" * 1000, "ü" * 500, "漢字" * 500, "🚀" * 500, None, b"\x00" * 500],
    ids=["empty", "short", "long", "latin", "han", "emoji", "null", "binary"],
)
def test_what_is_held_is_not_more_than_it_is_counted_as(text: str | bytes | None) -> None:
    bound = 1024 * 1024
    store = FullStore(writes=0)
    assembler = Assembler(max_memory=bound, spill_store=store)
    columns = tuple(RelationColumn(0, f"c{number}", 25, -1) for number in range(20))
    relation = RelationMessage(16385, "public", "t", "d", columns, 10)
    feed(assembler, StreamStartMessage(10, True), relation)
    decoder = Decoder()
    for message in (StreamStartMessage(10, True), relation):
        decoder.decode(encode(message))
    data = encode(InsertMessage(16385, (text,) * 20, 10))
    count = 0
    tracemalloc.start()
    try:
        with contextlib.suppress(SpillError):
            while True:
                assembler.feed(decoder.decode(data))
                count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count > 5
    assert peak < 1.25 * bound


def test_a_commit_that_cannot_be_read_back_ends_the_assembler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FullStore(writes=10)
    assembler = Assembler(max_memory=0, spill_store=store)
    feed(assembler, *start(), row(1), row(2), STOP)

    def read(spill: FullSpill) -> Iterator[Held]:
        raise ValueError("not what was written")

    monkeypatch.setattr(FullSpill, "read", read)
    with pytest.raises(ValueError, match="not what was written"):
        feed(assembler, COMMIT)
    with pytest.raises(DecodeError, match="start with a new one"):
        assembler.feed(COMMIT)
