"""Signatures of the journal's records: an HMAC behind what is signed."""

from __future__ import annotations

import hmac
from typing import Final

__all__ = ["SIGNATURE_BYTES", "is_signed", "signed"]

SIGNATURE_BYTES: Final = 32
"""How long a signature is."""


def signed(secret: bytes, data: bytes) -> bytes:
    """Return data with its signature behind it."""
    return data + hmac.digest(secret, data, "sha256")


def is_signed(secret: bytes, data: bytes) -> bool:
    """Return whether data ends with the signature of what is before that."""
    signature = hmac.digest(secret, data[:-SIGNATURE_BYTES], "sha256")
    return hmac.compare_digest(data[-SIGNATURE_BYTES:], signature)
