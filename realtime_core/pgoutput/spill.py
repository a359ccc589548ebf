"""Spill: where an undecided transaction's changes wait for its commit when memory is short.

The assembler asks a :class:`SpillStore` for one :class:`Spill` for each transaction. The file of a
:class:`FileSpillStore` never has a name that stays (``O_TMPFILE``, or unlinked at once), only its
owner can read it, and it is gone when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import marshal
import os
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any, Final, Protocol, TypeAlias

from ..errors import SpillError

__all__ = ["FileSpillStore", "Held", "Spill", "SpillStore"]

Held: TypeAlias = tuple[Any, ...]
"""A change as a tuple of plain values: numbers, strings, bytes, None, Ellipsis, tuples of these."""

_SIZE: Final = Struct("!Q")


class Spill(Protocol):
    """The spilled changes of one transaction, in order."""

    def write(self, held: list[Held]) -> None:
        """Append changes.

        Raises:
            SpillError: if they cannot be stored; the spill must not be used any more.
        """
        ...

    def read(self) -> Iterator[Held]:
        """Return all changes written so far, in order."""
        ...

    def close(self) -> None:
        """Free the storage."""
        ...


class SpillStore(Protocol):
    """Makes a spill for each transaction that needs one."""

    def open(self) -> Spill: ...


class FileSpillStore:
    """Spills to nameless files.

    Args:
        directory: the folder of the files; None stands for the system's temporary folder. That
            is often in memory: choose one on disk for transactions that are larger.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._directory = directory

    def open(self) -> Spill:
        try:
            # It takes longer to import than all of the decoder's own modules, and few spill.
            import tempfile

            with tempfile.TemporaryFile(buffering=0, dir=self._directory) as file:
                return _FileSpill(os.dup(file.fileno()))
        except OSError as exc:
            raise _failed(exc) from exc


class _FileSpill:
    """A file with blocks of marshalled changes, each behind its length.

    It is written with marshal, which is twice as fast as pickle here, because the process that
    writes is the one that reads. It is a descriptor and not a file object: without a buffer, the
    write that fills the disk fails, and not the last one; and an assembler that is dropped
    without being closed causes no ResourceWarning.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._size = 0

    def write(self, held: list[Held]) -> None:
        block = marshal.dumps(held)
        try:
            self._append(_SIZE.pack(len(block)))
            self._append(block)
        except OSError as exc:
            raise _failed(exc) from exc

    def read(self) -> Iterator[Held]:
        at = 0
        try:
            while at < self._size:
                (length,) = _SIZE.unpack(self._read(at, _SIZE.size))
                at += _SIZE.size
                block: Iterable[Held] = marshal.loads(self._read(at, length))
                at += length
                yield from block
        except (OSError, EOFError, ValueError, TypeError) as exc:
            raise SpillError(
                f"cannot read back a streamed transaction that was spilled to disk ({exc}); its "
                "Commit was not handed over and nothing of it was acknowledged: stream again"
            ) from exc

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = os.write(self._open(), rest)
            self._size += count
            rest = rest[count:]

    def _read(self, at: int, length: int) -> bytes:
        os.lseek(self._open(), at, os.SEEK_SET)
        parts = []
        while length:
            part = os.read(self._open(), length)
            if not part:
                raise EOFError("the file is shorter than what was written")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _open(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "it was closed before")
        return self._descriptor


def _failed(exc: OSError) -> SpillError:
    return SpillError(
        f"cannot spill a streamed transaction to disk ({exc}); nothing of it was handed over or "
        "acknowledged: free space or choose another spill directory, then stream again"
    )
