"""Dead letters: the requests that were given up, in a file of JSON lines.

A line has what sends the request again, and why it was given up, but neither the endpoint's URL
nor a secret; the body is last, byte for byte as it was. The file is locked for each change of it
and a process that removes lines replaces it by a new one, so a server may add to it while others
are sent again. It is written, and on the disk, before the slot moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BufferedWriter, FileIO
from typing import Any, Final, Literal

import attrs

from realtime_core.errors import RealtimeError

from .request import Request

if sys.platform != "win32":
    import fcntl

__all__ = ["DeadLetter", "DeadLetters", "FileFullError"]

_BODY: Final = b',"body":'
"""The text before the body, which cannot occur earlier: within JSON strings there is no quotation
mark without a \\\\."""


class FileFullError(RealtimeError):
    """A file that would be larger than it may be."""


@attrs.frozen
class DeadLetter:
    """A request that was given up.

    Attributes:
        request: the request that can be sent again.
        name: the endpoint's name.
        attempts: how often the request was tried.
        reason: why the request was given up.
        given_up_at: when the request was given up.
    """

    request: Request
    name: str
    attempts: int
    reason: str
    given_up_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))

    @property
    def key(self) -> tuple[str, str]:
        """The endpoint's name and the request's id. Two letters may have the same key."""
        return self.name, self.request.id

    def as_line(self) -> bytes:
        request = self.request
        head = {
            "id": request.id,
            "endpoint": self.name,
            "position": request.position,
            "part": request.part,
            "last_part": request.is_last,
            "commit_time": request.commit_time,
            "given_up_at": self.given_up_at.isoformat(timespec="milliseconds"),
            "attempts": self.attempts,
            "reason": self.reason,
        }
        return json.dumps(head)[:-1].encode() + _BODY + request.body + b"}\n"

    @classmethod
    def parse(cls, line: bytes) -> DeadLetter:
        """Read what :meth:`as_line` wrote.

        Raises:
            ValueError: if it is not that, for example a line that was not written to its end.
        """
        head, separator, rest = line.partition(_BODY)
        if not separator or not rest.endswith(b"}\n"):
            raise ValueError("it has no body")
        body = rest[:-2]
        json.loads(body)
        fields: dict[str, Any] = json.loads(head + b"}")
        try:
            request = Request(
                id=str(fields["id"]),
                position=str(fields["position"]),
                body=body,
                part=int(fields["part"]),
                is_last=bool(fields["last_part"]),
                commit_time=float(fields["commit_time"]),
            )
            return cls(
                request,
                name=str(fields["endpoint"]),
                attempts=int(fields["attempts"]),
                reason=str(fields["reason"]),
                given_up_at=datetime.fromisoformat(fields["given_up_at"]),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"it lacks {exc}") from None


class DeadLetters:
    """The file. It need not be there yet.

    Args:
        path: the file's path.
        most: bytes that it may have; 0: no bound.
    """

    def __init__(self, path: str, most: int = 0) -> None:
        self.path = path
        self._most = most
        # Of its own: looking up the names of endpoints keeps asyncio's threads busy for as long as
        # a resolver does not answer.
        self._thread = ThreadPoolExecutor(1, "dead-letters")

    async def add(self, letters: Iterable[DeadLetter]) -> None:
        """Append requests; they are on the disk when this returns.

        Raises:
            FileFullError: if the file would have too many bytes; none is added.
            OSError: if it cannot be written.
        """
        # It may take a while: the disk must have it. A cancellation does not end the writing.
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(self._thread, self._append, letters))

    def check(self) -> None:
        """Check that letters can be added. If there is no file, none is left behind.

        Raises:
            OSError: if it cannot be written.
        """
        is_new = not os.path.lexists(self.path)
        with self._locked() as file:
            # Another process may have made it, and added to it, meanwhile.
            if is_new and not file.seek(0, os.SEEK_END):
                os.unlink(self.path)

    def check_remove(self) -> None:
        """Check that letters can be removed: create the file that would replace this one, and
        delete it.

        Raises:
            FileNotFoundError: if there is no file.
            OSError: if it cannot be replaced by one that its owner can read and write as before.
        """
        with self._locked("r+b") as old, self._beside(old):
            pass

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from this too: of two that send the same requests again, each sends all.

        Raises:
            BlockingIOError: if another process is in it, with this file or one beside it.
            FileNotFoundError: if there is no such folder.
        """
        if sys.platform == "win32":
            yield
            return
        # The file itself is replaced, and locked for each change of it.
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass  # NFS locks no folders
            yield
        finally:
            os.close(folder)

    def read(self) -> Iterator[tuple[bytes, DeadLetter | None]]:
        """Yield each line that is there now, and what it says; None if it is broken.

        What others add meanwhile is not read.

        Raises:
            OSError: if it cannot be read.
        """
        # None of them is in the middle of a line while it is locked.
        with self._locked("r+b") as locked:
            left = os.fstat(locked.fileno()).st_size
            file = open(self.path, "rb")  # noqa: SIM115
        with file:
            while line := file.readline(left):
                left -= len(line)
                try:
                    yield line, DeadLetter.parse(line)
                except ValueError:
                    yield line, None

    def remove(self, keys: Collection[tuple[str, str]]) -> None:
        """Take requests out of the file, in one step; what others add meanwhile stays.

        Args:
            keys: the keys of the letters that were taken.

        Raises:
            OSError: if the file cannot be replaced; it stays as it was.
        """
        with self._locked("r+b") as locked, self._beside(locked) as new:
            with open(self.path, "rb") as old:
                for line in old:
                    try:
                        if DeadLetter.parse(line).key in keys:
                            continue
                    except ValueError:
                        pass
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
            os.replace(new.name, self.path)
            _sync_directory(self.path)

    @contextlib.contextmanager
    def _beside(self, old: FileIO) -> Iterator[BufferedWriter]:
        """Make an empty file beside the locked one, with its owner and mode.

        It is removed at the end if it still has its name.
        """
        path = f"{self.path}.new"
        # A process that was killed may have left it, and whoever may write into the directory may
        # have made it a link: it is never written through.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        try:
            with open(path, "xb", opener=_private) as new:
                _own_alike(old, new)
                yield new
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _append(self, letters: Iterable[DeadLetter]) -> None:
        lines = b"".join(letter.as_line() for letter in letters)
        with self._locked() as file:
            size = file.seek(0, os.SEEK_END)
            if size and self._most and size + len(lines) > self._most:
                raise FileFullError(f"{self.path} may have {self._most} bytes, and has {size}")
            # The process that wrote before may have been killed in the middle of a line.
            file.seek(max(size - 1, 0))
            if size and file.read(1) != b"\n":
                lines = b"\n" + lines
            try:
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                # The disk may be full: no half of a line stays.
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
            if not size:
                _sync_directory(self.path)

    @contextlib.contextmanager
    def _locked(self, mode: Literal["a+b", "r+b"] = "a+b") -> Iterator[FileIO]:
        """Open the file, and lock it against other processes; ``a+b`` makes it if need be."""
        while True:
            # Unbuffered, so that nothing is written when it is closed after an error.
            file = open(self.path, mode, buffering=0, opener=_private)  # noqa: SIM115
            with file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX)
                # Another one may have put a new file into its place while we waited.
                if not _is_at(file, self.path):
                    continue
                file.seek(0)
                yield file
                return


def _private(path: str, flags: int) -> int:
    # Rows are in it.
    return os.open(path, flags, 0o600)


def _own_alike(old: FileIO, new: BufferedWriter) -> None:
    """Give a new file the owner and the mode of an old one.

    Root may send dead letters again, and the server, another user, must be able to go on writing.
    """
    if sys.platform == "win32":
        return
    wanted = os.fstat(old.fileno())
    os.fchown(new.fileno(), wanted.st_uid, wanted.st_gid)
    os.fchmod(new.fileno(), stat.S_IMODE(wanted.st_mode))


def _is_at(file: FileIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_directory(path: str) -> None:
    if sys.platform == "win32":
        return
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
