"""LSN: a position in PostgreSQL's write-ahead log.

One 64-bit number of bytes, written as two hexadecimal halves (``16/B374D848``).
See "pg_lsn Type" in the PostgreSQL documentation.
"""

from __future__ import annotations

import re
from typing import Self

__all__ = ["LSN"]

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_MAX = 2**64 - 1


class LSN(int):
    """A WAL position, in bytes since the beginning of the log.

    It is an ``int``: it compares, and differences are in bytes. Its text is
    PostgreSQL's.
    """

    __slots__ = ()

    def __new__(cls, value: int = 0) -> Self:
        """Make an LSN.

        Raises:
            ValueError: if ``value`` does not fit in 64 bits.
        """
        if not 0 <= value <= _MAX:
            raise ValueError(f"an LSN is between 0 and 2**64 - 1, not {value}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's notation, ``16/B374D848``.

        Raises:
            ValueError: if ``text`` is not that.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}; it looks like 16/B374D848")
        high, low = match.groups()
        # Past __new__, which would ask again whether it fits.
        return super().__new__(cls, int(high, 16) << 32 | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"LSN({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self) if not spec else int(self), spec)
