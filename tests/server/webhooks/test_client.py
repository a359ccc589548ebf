"""Client: what goes over the wire, and what does not."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from realtime_core import ConfigError, __version__
from realtime_server.config import ConfigurationFile, ServerConfig, Webhook
from realtime_server.webhooks.client import Answer, Client, UnreachableError
from tests.certificates import Authority
from tests.receiver import Receiver, Reply
from tests.server_helpers import open_config

pytestmark = pytest.mark.slow


def config_of(*endpoints: str, **settings: Any) -> ServerConfig:
    webhooks = tuple(
        Webhook(endpoint, name=f"webhook-{number}") for number, endpoint in enumerate(endpoints, 1)
    )
    file = attrs.evolve(ConfigurationFile(), webhooks=webhooks)
    return open_config(configuration_file=file, **settings)


def client(**settings: Any) -> Client:
    return Client(config_of("http://127.0.0.1", **settings))


async def test_a_request_has_the_originals_content_type_and_the_operators_headers() -> None:
    headers = (("X-One", "1"), ("authorization", "Bearer ä"))
    async with Receiver() as receiver, client(webhook_headers=headers) as http:
        assert await http.post(receiver.url, {"webhook-id": "msg_1"}, b"{}") == Answer(200)
        (request,) = receiver.requests
    assert request.path == "/hook"
    assert request.body == b"{}"
    expected = {
        "content-type": "application/json",
        "user-agent": f"realtime-core/{__version__}",
        "x-one": "1",
        "authorization": "Bearer ä",
        "webhook-id": "msg_1",
        "content-length": "2",
    }
    assert expected.items() <= request.headers.items()


async def test_a_large_body_goes_in_chunks_and_has_a_length() -> None:
    body = bytes(range(256)) * 40_000
    async with Receiver() as receiver, client(webhook_timeout=60_000) as http:
        for _ in range(2):
            assert await http.post(receiver.url, {"webhook-id": "msg_1"}, body) == Answer(200)
    for request in receiver.requests:
        assert request.body == body
        assert request.headers["content-length"] == str(len(body))
        assert "transfer-encoding" not in request.headers
    assert receiver.connections == 1


async def test_one_connection_serves_many_requests() -> None:
    async with Receiver() as receiver, client() as http:
        for _ in range(5):
            await http.post(receiver.url, {}, b"{}")
        assert len(receiver.requests) == 5
        assert receiver.connections == 1


async def test_a_redirect_is_not_followed() -> None:
    async with Receiver() as inside, client() as http:
        for status in (301, 302, 303, 307, 308):
            async with Receiver(Reply(status, {"location": inside.url})) as receiver:
                assert (await http.post(receiver.url, {}, b"{}")).status == status
        assert inside.requests == []


async def test_a_cookie_is_not_kept() -> None:
    async with Receiver(Reply(headers={"set-cookie": "a=b"})) as receiver, client() as http:
        for _ in range(2):
            await http.post(receiver.url, {}, b"{}")
        assert all("cookie" not in request.headers for request in receiver.requests)


async def test_retry_after_is_handed_on() -> None:
    async with Receiver(Reply(429, {"Retry-After": "7"})) as receiver, client() as http:
        assert await http.post(receiver.url, {}, b"{}") == Answer(429, "7")


async def test_credentials_in_the_url_are_sent_as_a_header() -> None:
    async with Receiver() as receiver, client() as http:
        await http.post(receiver.url.replace("http://", "http://user:pw@"), {}, b"{}")
        assert receiver.requests[0].headers["authorization"] == "Basic dXNlcjpwdw=="


# No answer.


async def test_a_silent_endpoint_is_given_up_in_time() -> None:
    async with Receiver(Reply(is_silent=True)) as receiver, client(webhook_timeout=1000) as http:
        with pytest.raises(UnreachableError, match=r"^no answer within 1 s$"):
            await http.post(receiver.url, {}, b"{}")
        # The next one has a connection of its own.
        receiver.reply = Reply()
        assert (await http.post(receiver.url, {}, b"{}")).status == 200


async def test_an_answer_that_does_not_end_counts_and_takes_no_longer() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        await reader.read()
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, client(webhook_timeout=100) as http:
        assert (await http.post(url, {}, b"{}")).status == 200
        await ended.wait()


async def test_a_large_answer_is_not_read() -> None:
    async with Receiver(Reply(body=b"x" * 50_000_000)) as receiver, client() as http:
        assert (await http.post(receiver.url, {}, b"{}")).status == 200
        assert (await http.post(receiver.url, {}, b"{}")).status == 200
        assert receiver.connections == 2


async def test_a_connection_that_is_refused_or_broken_is_said_without_the_url() -> None:
    async with Receiver() as receiver:
        pass
    async with client() as http:
        url = receiver.url.replace("http://", "http://user:password@") + "/secret"
        with pytest.raises(UnreachableError) as refused:
            await http.post(url, {}, b"{}")
    async with Receiver(Reply(hangs_up=True)) as receiver, client() as http:
        with pytest.raises(UnreachableError) as broken:
            await http.post(receiver.url + "/secret", {}, b"{}")
    for caught in (refused, broken):
        assert "secret" not in str(caught.value)
        assert "password" not in str(caught.value)
    assert str(refused.value).startswith("ConnectError: ")
    assert str(broken.value).startswith("RemoteProtocolError: ")


@pytest.mark.parametrize("location", ["https://xn--/", "https://xn--99999999999/", "//[::1"])
async def test_a_redirect_that_cannot_be_read_is_no_answer(location: str) -> None:
    async with Receiver(Reply(302, {"location": location})) as receiver, client() as http:
        with pytest.raises(UnreachableError) as caught:
            await http.post(receiver.url + "/secret", {}, b"{}")
        assert "secret" not in str(caught.value)
        receiver.reply = Reply()
        assert (await http.post(receiver.url, {}, b"{}")).status == 200


async def test_nothing_of_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Receiver() as receiver, client() as http:
        await http.post(receiver.url + "?token=secret", {"x-secret": "1"}, b"{}")
    assert "secret" not in caplog.text


# TLS, proxies.


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def context(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    certificate, key = authority.issue("localhost")
    path = tmp_path / "server.pem"
    path.write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused(context: ssl.SSLContext) -> None:
    async with Receiver(context=context) as receiver, client() as http:
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.post(receiver.url, {}, b"{}")
        assert receiver.requests == []


async def test_the_environment_names_authorities(
    context: ssl.SSLContext, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with Receiver(context=context) as receiver, client() as http:
        assert (await http.post(receiver.url, {}, b"{}")).status == 200
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.post(receiver.url.replace("localhost", "127.0.0.1"), {}, b"{}")


async def test_the_environment_names_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client() as http:
            await http.post("http://hooks.example/x", {}, b"{}")
        assert [request.path for request in proxy.requests] == ["http://hooks.example/x"]


# What cannot work is said at the start.


def test_without_httpx_the_command_is_said_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError) as caught:
        client()
    assert caught.value.problems == (
        "webhooks in CONFIGURATION_FILE need httpx, which is not installed; use "
        "pip install httpx, or remove them",
    )


def test_every_url_that_cannot_be_used_is_named_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Client(config_of("http://a/", "http://secret\x00/", "http://\x7fsecret/"))
    assert caught.value.problems == (
        "the endpoint of webhook 'webhook-2' in CONFIGURATION_FILE is no URL; mend it",
        "the endpoint of webhook 'webhook-3' in CONFIGURATION_FILE is no URL; mend it",
    )


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "gopher://x"), ("ALL_PROXY", "socks5://x")]
)
def test_a_proxy_that_cannot_be_used_is_said(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="webhooks cannot work with this environment's proxies"):
        client()
