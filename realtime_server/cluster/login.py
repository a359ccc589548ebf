"""Connecting to NATS as the settings say, with errors that say what to do about them.

The client library by itself goes on without TLS, and sends the password, if a server does not ask
for TLS; whoever is between both can remove that line. So here TLS is begun whenever the settings
want it, and nothing is sent before.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

import nats.errors
from nats.aio.client import Client, RawCredentials

from ..config import ClusterSettings
from .client import PromptClient
from .errors import LogError

__all__ = ["OnError", "connect"]

_CONNECT: Final = 2
"""Seconds that a server may take to accept a connection."""
_CLOSE: Final = 1.0
"""Seconds that closing a connection may take. A server that stands still takes no more bytes."""
_REFUSED: Final = (
    "the login is refused; set what the server's configuration has of this user, or add the user "
    "there"
)
_NO_LOGIN: Final = (
    "the server asks for a login; set NATS_USER and NATS_PASSWORD, or NATS_CREDENTIALS, or "
    "NATS_NKEY_SEED"
)
_KNOWN_VERSION: Final = "use pip install 'realtime-core[cluster]', which brings another version"

OnError = Callable[[Exception], Awaitable[None]]
OnClosed = Callable[[], Awaitable[None]]


async def connect(
    config: ClusterSettings,
    *,
    name: str,
    error_cb: OnError | None = None,
    closed_cb: OnClosed | None = None,
    **options: Any,
) -> PromptClient:
    """Connect to one of the servers, each of which is tried once. Close what is returned.

    The connection is not made anew when it breaks.

    Args:
        config: the settings, with ``NATS_URL``.
        name: what the servers' monitoring calls the connection.
        error_cb: called with what is wrong with the connection that is returned.
        closed_cb: called when that connection has ended, whoever has ended it.
        options: further ones of the library's ``Client.connect``.

    Raises:
        LogError: if no server accepts the connection; it says why, for each.
    """
    assert config.nats_url is not None
    urls = config.nats_url.split(",")
    options |= _login(config)
    problems = []
    for url in random.sample(urls, len(urls)):
        attempt = _Attempt(error_cb, closed_cb)
        client = PromptClient()
        if client.lacks:
            raise LogError(
                f"nats-py {version('nats-py')} has no {' and no '.join(client.lacks)}, which this "
                f"server sends with; {_KNOWN_VERSION}"
            )
        if config.wants_nats_tls:
            client = _EncryptedClient(has_certificate=config.nats_tls_cert is not None)
            options["tls"] = _tls(config)
        try:
            async with asyncio.timeout(2 * _CONNECT):
                await client.connect(
                    [url],
                    name=name,
                    allow_reconnect=False,
                    # The library tries a server that refuses the connection once more.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=_CONNECT,
                    error_cb=attempt.failed,
                    closed_cb=attempt.closed,
                    **options,
                )
        except (OSError, ValueError, nats.errors.Error) as exc:
            problems.append(f"{url}: {_reason(attempt.cause or exc, config)}")
            await _close(client)
        except BaseException:
            # Whoever waits for the connection has given it up.
            await _close(client)
            raise
        else:
            attempt.succeeded = True
            return client
    raise LogError(f"no connection to NATS: {'; '.join(problems)}")


class _Attempt:
    """One attempt to connect: its own troubles are no news of the connection."""

    def __init__(self, error_cb: OnError | None, closed_cb: OnClosed | None) -> None:
        self.succeeded = False
        self.cause: Exception | None = None
        self._error_cb, self._closed_cb = error_cb, closed_cb

    async def failed(self, error: Exception) -> None:
        if not self.succeeded:
            # What follows upon it, such as that there are no further servers, says less.
            self.cause = self.cause or error
        elif self._error_cb is not None:
            await self._error_cb(error)

    async def closed(self) -> None:
        if self.succeeded and self._closed_cb is not None:
            await self._closed_cb()


class _TlsError(nats.errors.Error):
    """TLS cannot begin as a server is set up; the text says what to do."""


class _EncryptedClient(PromptClient):
    """A client that sends nothing before TLS has begun.

    The library has no public way to that: the method is private, and another version may lack it.

    Args:
        has_certificate: whether it has one to show.

    Raises:
        LogError: if the library does not call the method that makes sure of TLS.
    """

    def __init__(self, *, has_certificate: bool) -> None:
        if not hasattr(Client, "_process_info"):
            raise LogError(
                f"nats-py {version('nats-py')} sends the login before it is known that the "
                "connection is encrypted, and has no way to change that which is known here; "
                f"{_KNOWN_VERSION}, which has one"
            )
        super().__init__()
        self._has_certificate = has_certificate

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise _TlsError(
                    "the server has no TLS; set it up there, or use nats:// in NATS_URL and unset "
                    "NATS_TLS_CA, NATS_TLS_CERT and NATS_TLS_KEY"
                )
            # Such a server ends the connection behind the handshake, with no reason given.
            if info.get("tls_verify") and not self._has_certificate:
                raise _TlsError(
                    "the server asks for a certificate; set NATS_TLS_CERT and NATS_TLS_KEY"
                )
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


def _login(config: ClusterSettings) -> dict[str, Any]:
    if config.nats_credentials is not None:
        return {"user_credentials": RawCredentials(config.nats_credentials)}
    if config.nats_nkey_seed is not None:
        return {"nkeys_seed_str": config.nats_nkey_seed}
    if config.nats_user is not None:
        return {"user": config.nats_user, "password": config.nats_password}
    return {}


def _tls(config: ClusterSettings) -> ssl.SSLContext:
    """Return what certificates are checked with; its files are read each time, as they change.

    Raises:
        LogError: if a file has nothing that can be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.nats_tls_ca)
    except OSError as exc:
        raise LogError(
            f"NATS_TLS_CA is {config.nats_tls_ca!r}, which has no certificate in PEM ({exc}); name "
            "the file with the authority that has signed the NATS servers' certificates"
        ) from None
    if config.nats_tls_cert is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(config.nats_tls_cert, config.nats_tls_key, password="")
        except OSError as exc:
            raise LogError(
                f"NATS_TLS_CERT and NATS_TLS_KEY cannot be used together ({exc}); name a "
                "certificate and its own key in PEM, which has no password"
            ) from None
    return context


def _reason(error: Exception, config: ClusterSettings) -> str:
    """Return why a connection has failed, and what to do."""
    text = " ".join(str(error).split())
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the server's certificate is not accepted ({error.verify_message}); set "
                "NATS_TLS_CA to the authority that has signed it, and the host in NATS_URL to a "
                "name that it is for"
            )
        case _ if "unknown certificate authority" in text or "UNKNOWN_CA" in text:
            return (
                "the server does not accept this server's certificate; set NATS_TLS_CERT to one "
                "that an authority of its ca_file has signed"
            )
        case nats.errors.Error() if (
            isinstance(error, nats.errors.AuthorizationError)
            or "authorization violation" in text.lower()
        ):
            # A certificate may be the login.
            has_login = config.nats_tls_cert is not None or bool(_login(config))
            return _REFUSED if has_login else _NO_LOGIN
        case socket.gaierror():
            return f"there is no such host ({error.strerror}); correct NATS_URL"
        # A name may have several addresses, of which one error tells.
        case OSError() if f"[Errno {errno.ECONNREFUSED}]" in text:
            return "nothing listens there; start NATS, or correct NATS_URL"
        case TimeoutError():
            return "no answer in time; is this the address of a NATS server's clients?"
    return text or type(error).__name__


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE):
            await client.close()
    except (OSError, nats.errors.Error):
        pass  # it was not open
