"""Messages taken out of libpq, one at a time or in a loop of C: test_accelerator.py has both."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import pq

from realtime_core._implementation import IMPLEMENTATION
from realtime_core.sources import _copy_data
from realtime_core.sources._copy_data import taker

MUCH = 1000


class FakeLibpq:
    """A connection, and the functions of libpq: these messages come, then a status.

    A callable among the messages is called, as libpq calls psycopg for a notice.
    """

    def __init__(self, *messages: bytes | Callable[[], None], status: int = 0) -> None:
        self._messages = list(messages)
        self._status = status
        self._buffers: dict[int, Any] = {}
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int
        )
        self._functions = (kind(self._get), ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._free))
        self.pgconn_ptr = 42

    @property
    def unfreed(self) -> int:
        return len(self._buffers)

    def addresses(self, *_: str) -> list[int]:
        return [ctypes.cast(each, ctypes.c_void_p).value or 0 for each in self._functions]

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        while self._messages and not isinstance(self._messages[0], bytes):
            self._messages.pop(0)()  # type: ignore[operator]
        if self._messages:
            message = self._messages.pop(0)
            assert isinstance(message, bytes)
            return len(message), memoryview(message)
        if self._status == -2:
            raise psycopg.OperationalError(
                f"receiving copy data failed: {self.get_error_message()}"
            )
        return self._status, memoryview(b"")

    def get_error_message(self) -> str:
        return "no COPY in progress"

    def _get(self, connection: int, place: Any, is_asynchronous: int) -> int:
        assert (connection, is_asynchronous) == (self.pgconn_ptr, 1)
        try:
            size, data = self.get_copy_data(1)
        except psycopg.OperationalError:
            return -2
        if size > 0:
            buffer = ctypes.create_string_buffer(bytes(data), size)
            place[0] = ctypes.addressof(buffer)
            self._buffers[ctypes.addressof(buffer)] = buffer
        return size

    def _free(self, buffer: int) -> None:
        del self._buffers[buffer]


@pytest.fixture
def take_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FakeLibpq], Any]]:
    """Return a taker of this process's implementation, compiled or not."""

    def make(libpq: FakeLibpq) -> Any:
        monkeypatch.setattr(_copy_data, "_addresses", libpq.addresses)
        monkeypatch.setattr(pq, "PGconn", FakeLibpq)
        _copy_data._compiled.cache_clear()
        return taker(libpq)  # type: ignore[arg-type]

    yield make
    _copy_data._compiled.cache_clear()


@pytest.mark.parametrize("status", [0, -1])
def test_all_messages_are_taken_and_the_status_behind_them_is_returned(
    status: int, take_from: Callable[[FakeLibpq], Any]
) -> None:
    libpq = FakeLibpq(b"w\0one", b"k", b"\xff" * 300, status=status)
    take, messages = take_from(libpq), [b"before"]
    assert take(messages, MUCH) == status
    assert messages == [b"before", b"w\0one", b"k", b"\xff" * 300]
    assert take(messages, MUCH) == status
    assert len(messages) == 4
    assert not libpq.unfreed


def test_no_more_are_taken_than_the_bytes_that_were_asked_for(
    take_from: Callable[[FakeLibpq], Any],
) -> None:
    libpq = FakeLibpq(b"1234", b"5678", b"9", status=-1)
    take = take_from(libpq)
    messages: list[bytes] = []
    assert take(messages, 5) == 1
    assert messages == [b"1234", b"5678"]
    assert take(messages, 0) == 1
    assert take(messages, 5) == -1
    assert messages == [b"1234", b"5678", b"9"]
    assert not libpq.unfreed


def test_a_failure_is_psycopgs_error_behind_the_messages_before_it(
    take_from: Callable[[FakeLibpq], Any],
) -> None:
    take = take_from(FakeLibpq(b"1", status=-2))
    messages: list[bytes] = []
    with pytest.raises(psycopg.OperationalError, match="copy data failed: no COPY in progress"):
        take(messages, MUCH)
    assert messages == [b"1"]


def test_a_notice_finds_the_messages_before_it_in_the_list(
    take_from: Callable[[FakeLibpq], Any],
) -> None:
    messages: list[bytes] = []
    seen: list[bytes] = []
    take = take_from(FakeLibpq(b"1", b"2", lambda: seen.extend(messages), b"3"))
    assert take(messages, MUCH) == 0
    assert (seen, messages) == ([b"1", b"2"], [b"1", b"2", b"3"])


def test_libpqs_own_connection_has_no_copy_and_then_is_closed() -> None:
    """The library that psycopg has loaded is called with a connection that it has made."""
    pgconn = pq.PGconn.connect_start(b"host=/nonexistent")
    if IMPLEMENTATION == "c":
        assert _copy_data._compiled() is not None
    take = taker(pgconn)
    with pytest.raises(psycopg.OperationalError, match=r"copy data failed: (?s:.*)no COPY in prog"):
        take([], MUCH)
    pgconn.finish()
    with pytest.raises(
        psycopg.OperationalError, match="copy data failed: connection pointer is NULL"
    ):
        take([], MUCH)


def test_a_library_that_is_not_known_for_sure_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program itself has a function of that name, which psycopg may have been linked with."""
    real = ctypes.CDLL
    found = _copy_data._addresses("PQgetCopyData")
    assert found
    assert all(found)
    program = SimpleNamespace(PQgetCopyData=real(None).malloc)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: program if path is None else real(path))
    assert _copy_data._addresses("PQgetCopyData") is None
