"""Dead letters: what is in the file, also after a kill, on a full disk, and with two at it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from realtime_server.webhooks.dead_letters import DeadLetter, DeadLetters, FileFullError
from realtime_server.webhooks.request import Request
from tests.waiting import eventually_sync


def letter(number: int, body: bytes = b'{"changes":[]}', name: str = "audit") -> DeadLetter:
    request = Request(f"msg_{number}", f"0/{number}:0@7.1/shop", body, 1, True, 1795845600.25)
    return DeadLetter(request, name, 3, "status 500")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dead.jsonl"


@pytest.fixture
def letters(path: Path) -> DeadLetters:
    return DeadLetters(str(path))


def add(letters: DeadLetters, items: list[DeadLetter]) -> None:
    asyncio.run(letters.add(items))


def ids(letters: DeadLetters) -> list[str | None]:
    return [found and found.request.id for _, found in letters.read()]


def test_a_line_is_json_with_the_body_in_it(path: Path, letters: DeadLetters) -> None:
    body = '{"changes":[{"record":{"a":"“,\\"body\\":x“"}}]}'.encode()
    add(letters, [letter(1, body)])
    (line,) = path.read_text(encoding="utf-8").splitlines()
    found: dict[str, Any] = json.loads(line)
    assert list(found)[-1] == "body"
    assert found.pop("body") == json.loads(body)
    assert found.pop("given_up_at")[-6:] == "+00:00"
    assert found == {
        "id": "msg_1",
        "endpoint": "audit",
        "position": "0/1:0@7.1/shop",
        "part": 1,
        "last_part": True,
        "commit_time": 1795845600.25,
        "attempts": 3,
        "reason": "status 500",
    }
    ((_, again),) = letters.read()
    assert again is not None
    assert again.request.body == body
    assert again.as_line() == path.read_bytes()


def test_only_its_owner_can_read_it(path: Path, letters: DeadLetters) -> None:
    add(letters, [letter(1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    add(letters, [letter(2)])
    letters.remove([letter(1).key])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_on_the_disk_when_it_was_added(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def spy(file: int) -> None:
        synced.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    add(letters, [letter(1), letter(2)])
    # The file, whole, and the directory that it is new in.
    assert synced[0] == os.stat(letters.path).st_size
    assert len(synced) == 2


def test_adding_does_not_wait_for_other_threads(path: Path) -> None:
    """As those that look up the names of endpoints, as long as their resolver likes."""

    async def add_beside() -> None:
        goes_on = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        other = loop.run_in_executor(None, goes_on.wait)
        try:
            async with asyncio.timeout(10):
                await DeadLetters(str(path)).add([letter(1)])
            assert not other.done()
        finally:
            goes_on.set()
            await other

    asyncio.run(add_beside())


def test_what_is_added_meanwhile_is_not_read(letters: DeadLetters) -> None:
    """So that sending again comes to an end, however much the server gives up meanwhile."""
    add(letters, [letter(1)])
    lines = letters.read()
    next(lines)
    add(letters, [letter(2)])
    assert list(lines) == []


@pytest.mark.slow
def test_a_line_that_is_being_written_is_read_when_it_is_whole(
    path: Path, letters: DeadLetters
) -> None:
    whole = letter(1).as_line()
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor() as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(whole[:50])
        found = pool.submit(lambda: ids(letters))
        done, _ = wait([found], timeout=0.1)
        assert not done
        file.write(whole[50:])
        fcntl.flock(file, fcntl.LOCK_UN)
        assert found.result(timeout=30) == ["msg_1"]


@pytest.mark.parametrize("kept", [1, 50, -2])
def test_a_line_that_was_not_written_to_its_end_harms_no_other(
    path: Path, letters: DeadLetters, kept: int
) -> None:
    add(letters, [letter(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    add(letters, [letter(2)])
    assert ids(letters) == ["msg_1", None, "msg_2"]
    letters.remove([letter(1).key, letter(2).key])
    assert path.read_bytes() == whole[:kept] + b"\n"


def test_one_that_would_be_too_large_is_not_added(path: Path) -> None:
    small = DeadLetters(str(path), most=1000)
    add(small, [letter(1)])
    size = path.stat().st_size
    with pytest.raises(FileFullError):
        add(small, [letter(2, b"x" * 1000)])
    assert path.stat().st_size == size
    # Into an empty file anything goes: else it could never be kept.
    path.unlink()
    add(small, [letter(2, b'"' + b"x" * 1000 + b'"')])
    assert ids(small) == ["msg_2"]


def test_half_of_a_line_does_not_stay_on_a_full_disk(
    path: Path, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(letters, [letter(1)])

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add(letters, [letter(2)])
    assert ids(letters) == ["msg_1"]


def test_what_is_removed_is_gone_and_the_rest_stays_as_it_was(
    path: Path, letters: DeadLetters
) -> None:
    add(letters, [letter(number) for number in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    letters.remove([letter(1).key, letter(3).key])
    assert path.read_bytes() == lines[0] + lines[2] + lines[4]
    assert os.listdir(path.parent) == [path.name]


def test_the_file_keeps_its_owner_and_mode_when_another_user_removes_from_it(
    path: Path, letters: DeadLetters
) -> None:
    add(letters, [letter(1), letter(2)])
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    path.chmod(0o640)
    before = path.stat()
    letters.remove([letter(1).key])
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640


def test_a_user_who_cannot_keep_the_owner_changes_nothing(
    path: Path, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(letters, [letter(1)])
    before = path.read_bytes()

    def refuse(file: int, user: int, group: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        letters.check_remove()
    with pytest.raises(PermissionError):
        letters.remove([letter(1).key])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_link_beside_the_file_is_not_written_through(path: Path, letters: DeadLetters) -> None:
    add(letters, [letter(1), letter(2)])
    target = path.with_name("target")
    target.write_text("mine")
    path.with_name(f"{path.name}.new").symlink_to(target)
    letters.check_remove()
    letters.remove([letter(1).key])
    assert target.read_text() == "mine"
    assert ids(letters) == ["msg_2"]


def test_a_check_leaves_no_file_that_was_not_there(path: Path, letters: DeadLetters) -> None:
    letters.check()
    assert os.listdir(path.parent) == []
    add(letters, [letter(1)])
    before = path.read_bytes()
    letters.check()
    letters.check_remove()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_same_id_of_another_endpoint_stays(letters: DeadLetters) -> None:
    add(letters, [letter(1, name="a"), letter(1, name="b")])
    letters.remove([letter(1, name="a").key])
    assert [found.name for _, found in letters.read() if found] == ["b"]


@pytest.mark.slow
def test_nothing_is_lost_by_adding_and_removing_at_once(path: Path) -> None:
    """Each with an object, and so a file, of its own, as two processes have."""
    count = 40

    def add_from(first: int) -> None:
        for number in range(first, first + count):
            add(DeadLetters(str(path)), [letter(number)])

    def remove() -> None:
        for number in range(0, count, 2):
            letters = DeadLetters(str(path))
            eventually_sync(lambda: f"msg_{number}" in ids(letters))  # noqa: B023
            letters.remove([letter(number).key])

    path.touch()
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(add_from, 0), pool.submit(add_from, 1000), pool.submit(remove)]:
            done.result(timeout=60)
    expected = {*range(1, count, 2), *range(1000, 1000 + count)}
    assert {*ids(DeadLetters(str(path)))} == {f"msg_{number}" for number in expected}
    assert len(ids(DeadLetters(str(path)))) == len(expected)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"id":"x","body":{}}\n',
        b'{"id":"x","endpoint":"a","position":"p","part":null,"last_part":true,"commit_time":1,'
        b'"given_up_at":"2026-01-01","attempts":1,"reason":"","body":{}}\n',
        b'\xff,"body":{}}\n',
        b'{"id":"x","body":{"a}\n',
    ],
)
def test_what_is_no_dead_letter_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DeadLetter.parse(line)
