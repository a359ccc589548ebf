"""Signatures of requests, by the convention Standard Webhooks.

`Its specification <https://github.com/standard-webhooks/standard-webhooks>`_ has the headers
``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``: HMAC-SHA-256 over
``id.timestamp.body``, as ``v1,`` and base64, one for each secret with spaces between.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from typing import Final

__all__ = ["sign"]

_PREFIX: Final = "whsec_"


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of ``webhook-signature``.

    Args:
        secrets: each as ``whsec_`` and base64.
        message_id: the request's id, the same at each attempt.
        timestamp: the time of the attempt, as seconds since 1970.
        body: the body as it is sent.
    """
    head = f"{message_id}.{timestamp}.".encode()
    return " ".join(f"v1,{_digest(secret, head, body)}" for secret in secrets)


def _digest(secret: str, head: bytes, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    # In two steps: head and body together would be a copy of what may be megabytes.
    digest = hmac.new(key, head, "sha256")
    digest.update(body)
    return base64.b64encode(digest.digest()).decode()
