"""Where a streamed transaction's changes wait for their commit: memory first, then a file.

The assembler asks a :class:`SpillStore` for one :class:`Spill` a transaction. The file has no
name from the start (``O_TMPFILE``, or unlinked at once), is readable by its owner only, and is
gone with the process, however that ends.
"""

from __future__ import annotations

import marshal
import os
import tempfile
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import IO, Any, Final, Protocol, TypeAlias

from ..errors import SpillError

__all__ = ["FileSpillStore", "Held", "Spill", "SpillStore"]

Held: TypeAlias = tuple[Any, ...]
"""A change as plain values: numbers, strings, bytes, None, Ellipsis, and tuples of them."""

_SIZE: Final = Struct("!I")


class Spill(Protocol):
    """What a transaction has put aside, in order."""

    def write(self, held: list[Held]) -> None:
        """Append changes.

        Raises:
            SpillError: if they cannot be stored; the spill is of no use any more.
        """
        ...

    def read(self) -> Iterator[Held]:
        """Return all changes written so far, in order."""
        ...

    def close(self) -> None:
        """Give the storage back."""
        ...


class SpillStore(Protocol):
    """Makes spills."""

    def open(self) -> Spill: ...


class FileSpillStore:
    """Spills into nameless files.

    Args:
        directory: where; None for the system's temporary folder, which is often in memory:
            choose one on disk for transactions that are larger than that.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._directory = directory

    def open(self) -> Spill:
        try:
            return _FileSpill(tempfile.TemporaryFile(dir=self._directory))
        except OSError as exc:
            raise _failed(exc) from exc


class _FileSpill:
    """Blocks of marshalled changes, each behind its length.

    marshal, because the process that writes is the one that reads, and it is twice as fast
    as pickle here.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, held: list[Held]) -> None:
        block = marshal.dumps(held)
        try:
            self._file.write(_SIZE.pack(len(block)) + block)
        except OSError as exc:
            raise _failed(exc) from exc

    def read(self) -> Iterator[Held]:
        try:
            self._file.flush()
            self._file.seek(0)
            while head := self._file.read(_SIZE.size):
                block: Iterable[Held] = marshal.loads(self._file.read(_SIZE.unpack(head)[0]))
                yield from block
        except OSError as exc:
            raise _failed(exc) from exc

    def close(self) -> None:
        self._file.close()


def _failed(exc: OSError) -> SpillError:
    return SpillError(
        f"cannot spill a streamed transaction to disk ({exc}); nothing of it was handed over or "
        "acknowledged: free space or choose another spill directory, then stream again"
    )
