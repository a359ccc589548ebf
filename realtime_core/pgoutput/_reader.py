"""A bounded cursor over one message.

Every read checks that the bytes are there; :meth:`Reader.end` checks that none are left.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ..errors import DecodeError, TruncatedMessageError
from ..lsn import LSN

__all__ = ["Reader", "new_lsn"]

# What 64 bits hold is an LSN: without the check of LSN() 0.13 µs instead of 0.33 µs.
new_lsn: Final = int.__new__

_I16: Final = Struct("!h")
_I32: Final = Struct("!i")
_U32: Final = Struct("!I")
_I64: Final = Struct("!q")
_U64: Final = Struct("!Q")


class Reader:
    """Reads fields off a message, in order.

    Raises:
        TruncatedMessageError: from each method, if the message ends too early.
        DecodeError: if a string is not UTF-8, a length is negative, or bytes are left over.
    """

    __slots__ = ("_data", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self.offset = offset

    def _take(self, length: int) -> int:
        """Step over ``length`` bytes and return where they start."""
        start = self.offset
        end = start + length
        if end > len(self._data):
            raise TruncatedMessageError(
                f"message ends after {len(self._data)} bytes, a field needs {end}"
            )
        self.offset = end
        return start

    def u8(self) -> int:
        return self._data[self._take(1)]

    def letter(self) -> str:
        return chr(self.u8())

    def i32(self) -> int:
        value: int = _I32.unpack_from(self._data, self._take(4))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self._take(4))[0]
        return value

    def i64(self) -> int:
        value: int = _I64.unpack_from(self._data, self._take(8))[0]
        return value

    def lsn(self) -> LSN:
        return new_lsn(LSN, _U64.unpack_from(self._data, self._take(8))[0])

    def count16(self) -> int:
        """A number of things that follow, 16 bits."""
        count: int = _I16.unpack_from(self._data, self._take(2))[0]
        if count < 0:
            raise DecodeError(f"negative count {count}")
        return count

    def count32(self) -> int:
        """A number of things that follow, 32 bits."""
        count = self.i32()
        if count < 0:
            raise DecodeError(f"negative count {count}")
        return count

    def sized(self) -> bytes:
        """Bytes behind their 32-bit length."""
        length = self.count32()
        start = self._take(length)
        return self._data[start : start + length]

    def string(self) -> str:
        """A NUL-terminated UTF-8 string; the NUL is not part of it."""
        end = self._data.find(b"\0", self.offset)
        if end < 0:
            raise TruncatedMessageError("message ends within a string")
        raw = self._data[self.offset : end]
        self.offset = end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError as exc:
            raise DecodeError(f"name {raw!r} is not UTF-8") from exc

    def end(self) -> None:
        left = len(self._data) - self.offset
        if left:
            raise DecodeError(f"{left} bytes left over at the end of the message")
