"""Client: sends one request to an endpoint, by HTTP.

httpx keeps connections open between requests, checks certificates, and takes proxies and
authorities from the environment (``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``). Redirects are
not followed, as an endpoint could lead the server to anywhere in its network; cookies are not
kept; of what an endpoint answers, status and ``Retry-After`` are looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Final, Self

import attrs

from realtime_core import ConfigError, __version__
from realtime_core.errors import RealtimeError

from ..config import ServerConfig, Webhook

__all__ = ["Answer", "Client", "UnreachableError"]

_CHUNK: Final = 64 * 1024
"""Bytes of a body that are written at once. Sockets are served between two of them."""
_MOST_READ: Final = 64 * 1024
"""Bytes of an answer that are read so that the connection can be used again."""


class UnreachableError(RealtimeError):
    """An attempt that got no answer. The message never has the endpoint's URL."""


@attrs.frozen
class Answer:
    """An endpoint's answer to a request."""

    status: int
    retry_after: str | None = None
    """The header ``Retry-After`` as it was sent; None if there was none."""


class Client:
    """Sends requests.

    Args:
        config: the settings, with the webhooks.

    Raises:
        ConfigError: if httpx is not installed, or cannot work with a URL or the environment.
    """

    def __init__(self, config: ServerConfig) -> None:
        try:
            import httpx
        except ImportError:
            raise ConfigError(
                [
                    "webhooks in CONFIGURATION_FILE need httpx, which is not installed; use "
                    "pip install httpx, or remove them"
                ]
            ) from None
        # At INFO they write down each URL, which may be a secret, and below that headers.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._timeout = config.webhook_timeout / 1000
        _check_urls(config.configuration_file.webhooks)
        try:
            self._http = httpx.AsyncClient(
                headers=_headers(config),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                follow_redirects=False,
                timeout=None,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            )
        # An unknown scheme of a proxy, a file of certificates that is none.
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as exc:
            raise ConfigError(
                [f"webhooks cannot work with this environment's proxies or certificates: {exc}"]
            ) from None
        # Their texts say what is wrong, and have no URL.
        self._errors = (httpx.HTTPError, httpx.StreamError, OSError)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def post(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a body once.

        Args:
            endpoint: the URL.
            headers: besides those of all requests.
            body: JSON.

        Raises:
            UnreachableError: if there was no answer, or none that can be read.
        """
        answer = None
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http.stream(
                    "POST",
                    endpoint,
                    headers={**headers, "content-length": str(len(body))},
                    content=body if len(body) <= _CHUNK else _chunks(body),
                ) as response,
            ):
                answer = Answer(response.status_code, response.headers.get("retry-after"))
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > _MOST_READ:
                        break
        except TimeoutError:
            if answer is None:
                raise UnreachableError(f"no answer within {self._timeout:g} s") from None
        except self._errors as exc:
            if answer is None:
                raise UnreachableError(f"{type(exc).__name__}: {exc}") from None
        # An answer may be such that httpx fails over it, as it does over some redirects that it was
        # not to follow. What an endpoint answers must not end the server.
        except Exception as exc:
            if answer is None:
                reason = f"no answer that can be read ({type(exc).__name__})"
                raise UnreachableError(reason) from None
        return answer


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK):
        yield body[start : start + _CHUNK]


def _headers(config: ServerConfig) -> list[tuple[bytes, bytes]]:
    own = [("user-agent", f"realtime-core/{__version__}"), ("content-type", "application/json")]
    theirs = {name.lower() for name, _ in config.webhook_headers}
    headers: Iterable[tuple[str, str]] = (
        *(header for header in own if header[0] not in theirs),
        *config.webhook_headers,
    )
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


def _check_urls(webhooks: Iterable[Webhook]) -> None:
    import httpx

    problems = []
    for webhook in webhooks:
        try:
            httpx.URL(webhook.endpoint)
        except (httpx.InvalidURL, UnicodeError):
            problems.append(
                f"the endpoint of webhook {webhook.name!r} in CONFIGURATION_FILE is no URL; mend it"
            )
    if problems:
        raise ConfigError(problems)
