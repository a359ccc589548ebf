"""Connecting to real NATS servers, and what is said when they do not accept it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import nkeys
import pytest

from realtime_core import Finding, Severity
from realtime_server.cluster.check import cluster_findings
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.errors import LogError
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.login import connect
from realtime_server.cluster.permissions import (
    Denials,
    publish_permissions,
    subscribe_permissions,
)
from realtime_server.config import ClusterSettings, ServerConfig
from tests.certificates import Authority
from tests.nats_accounts import Operator
from tests.nats_server import DEBIAN, LATEST, NatsServer, free_port

pytestmark = pytest.mark.integration

Start = Callable[..., NatsServer]


@attrs.frozen
class Files:
    """Paths of certificates and keys."""

    ca: str
    other_ca: str
    cert: str
    key: str
    own_cert: str
    own_key: str
    other_cert: str
    other_key: str


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority, other = Authority(), Authority("others")
    (server, server_key), (own, own_key) = authority.issue("localhost"), authority.issue("me")
    texts = {
        "ca": authority.certificate,
        "other_ca": other.certificate,
        "cert": server,
        "key": server_key,
        "own_cert": own,
        "own_key": own_key,
    }
    texts["other_cert"], texts["other_key"] = other.issue("me")
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    return Files(**{name: str(tmp_path / name) for name in texts})


def settings(server: NatsServer | str, **more: Any) -> ClusterSettings:
    url = server if isinstance(server, str) else server.url
    return ClusterSettings(nats_url=url, slot_name="realtime", **more)


async def login(config: ClusterSettings) -> tuple[int, int]:
    """Connect; return the version of the server."""
    client = await connect(config, name="tests")
    version = client.connected_server_version
    await client.close()
    return version.major, version.minor


async def refusal(config: ClusterSettings) -> str:
    with pytest.raises(LogError) as caught:
        await login(config)
    return str(caught.value)


async def test_a_server_without_users_takes_everybody(nats: NatsServer) -> None:
    version = await login(settings(nats))
    assert version == (2, 10) if nats.program == DEBIAN else version > (2, 10)


async def test_one_server_that_answers_is_enough(nats: NatsServer) -> None:
    gone = f"nats://127.0.0.1:{free_port()}"
    assert await login(settings(f"{gone},{nats.url},{gone}"))


async def test_each_server_that_cannot_be_reached_is_named() -> None:
    urls = [f"nats://127.0.0.1:{free_port()}", "nats://nonexistent.invalid:4222"]
    told = await refusal(settings(",".join(urls)))
    assert f"{urls[0]}: nothing listens there" in told
    assert f"{urls[1]}: there is no such host" in told


@pytest.mark.slow
async def test_what_does_not_speak_as_nats_does_is_given_up(nats: NatsServer) -> None:
    told = await refusal(settings(f"nats://127.0.0.1:{nats.monitor_port}"))
    assert "is this the address of a NATS server's clients?" in told


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_password_is_needed_and_has_to_be_right(new_nats: Start, program: Path) -> None:
    server = new_nats(program=program, more="authorization { user: me, password: right }")
    assert await login(settings(server, nats_user="me", nats_password="right"))
    assert "the server asks for a login; set NATS_USER" in await refusal(settings(server))
    told = await refusal(settings(server, nats_user="me", nats_password="hidden"))
    assert "the login is refused; set what the server's configuration has" in told
    assert "hidden" not in told


async def test_an_nkey_logs_in(new_nats: Start) -> None:
    seed = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
    public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
    server = new_nats(more=f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    assert await login(settings(server, nats_nkey_seed=seed))
    assert "the server asks for a login" in await refusal(settings(server))


# Accounts that an operator has signed


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_creds_file_logs_in(new_nats: Start, tmp_path: Path, program: Path) -> None:
    operator = Operator()
    server = new_nats(program=program, more=operator.configuration)
    file = tmp_path / "shop.creds"
    file.write_text(
        operator.credentials(publish_permissions("shop"), subscribe_permissions("shop"))
    )
    environ = {
        "DB_HOST": "x",
        "SECURE_CHANNELS": "false",
        "NATS_URL": server.url,
        "SLOT_NAME": "s",
        "CLUSTER_NAME": "shop",
        "NATS_CREDENTIALS_FILE": str(file),
    }
    config = ServerConfig.from_env(environ)
    async with await NatsConnection.open(config, name="tests") as connection:
        assert await Log(connection, LogSettings(name="shop")).prepare() == []
    found = await cluster_findings(attrs.evolve(config, log_ack_delay=130_000))
    assert found == [Finding.ok("cluster", "NATS is reached, and keeps the stream 'shop'")]
    # Another operator's user.
    told = await refusal(settings(server, nats_credentials=Operator().credentials()))
    assert "the login is refused" in told


async def test_an_account_may_have_no_jetstream(new_nats: Start) -> None:
    operator = Operator(jetstream=False)
    config = settings(
        new_nats(more=operator.configuration), nats_credentials=operator.credentials()
    )
    (finding,) = await cluster_findings(config)
    assert finding.severity is Severity.PROBLEM
    assert "JetStream not enabled for account" in finding.message
    assert "enable JetStream for the account" in finding.message


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_what_an_account_is_denied_is_named_at_once(
    new_nats: Start, program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator()
    publish = publish_permissions("shop")
    publish.remove("$JS.API.STREAM.INFO.shop")
    credentials = operator.credentials(publish, subscribe_permissions("shop"))
    server = new_nats(program=program, more=operator.configuration)
    config = settings(server, nats_credentials=credentials)
    denials = Denials("shop")
    async with await NatsConnection.open(
        config, name="tests", complaint=denials.note
    ) as connection:
        log = Log(connection, LogSettings(name="shop"))
        for _ in range(2):
            async with asyncio.timeout(2):
                with pytest.raises(LogError, match=r"let its user publish to \$JS.API.STREAM.INFO"):
                    await log.prepare()
    assert caplog.messages == [
        "NATS does not let its user publish $JS.API.STREAM.INFO.shop; permit it there"
    ]


# TLS


def tls(files: Files, more: str = "") -> dict[str, str]:
    own = f'cert_file: "{files.cert}", key_file: "{files.key}"'
    return {"scheme": "tls", "host": "localhost", "more": f"tls {{ {own} {more} }}"}


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_certificate_is_checked(new_nats: Start, files: Files, program: Path) -> None:
    server = new_nats(program=program, **tls(files))
    assert await login(settings(server, nats_tls_ca=files.ca))
    # A certificate's authority asks for TLS as the address does.
    plain = server.url.replace("tls:", "nats:")
    assert await login(settings(plain, nats_tls_ca=files.ca))
    for other in (files.other_ca, None):
        told = await refusal(settings(server, nats_tls_ca=other))
        assert "the server's certificate is not accepted (unable to get local issuer" in told
        assert "set NATS_TLS_CA to the authority that has signed it" in told
    elsewhere = server.url.replace("localhost", "127.0.0.1")
    assert "IP address mismatch" in await refusal(settings(elsewhere, nats_tls_ca=files.ca))


@pytest.mark.parametrize("program", [DEBIAN, LATEST], ids=["debian", "latest"])
async def test_a_server_may_ask_for_a_certificate(
    new_nats: Start, files: Files, program: Path
) -> None:
    server = new_nats(program=program, **tls(files, f', ca_file: "{files.ca}", verify: true'))
    own = {"nats_tls_cert": files.own_cert, "nats_tls_key": files.own_key}
    assert await login(settings(server, nats_tls_ca=files.ca, **own))
    told = await refusal(settings(server, nats_tls_ca=files.ca))
    assert "the server asks for a certificate; set NATS_TLS_CERT and NATS_TLS_KEY" in told


async def test_files_that_do_not_belong_together_are_named(files: Files) -> None:
    url = "tls://localhost:4222"
    own = {"nats_tls_cert": files.own_cert, "nats_tls_key": files.key}
    told = await refusal(settings(url, nats_tls_ca=files.ca, **own))
    assert "NATS_TLS_CERT and NATS_TLS_KEY cannot be used together" in told
    told = await refusal(settings(url, nats_tls_ca=files.key))
    assert f"NATS_TLS_CA is '{files.key}', which has no certificate in PEM" in told


async def test_nothing_is_sent_to_a_server_without_tls(new_nats: Start, files: Files) -> None:
    told = await refusal(settings(new_nats().url.replace("nats:", "tls:")))
    assert "the server has no TLS; set it up there, or use nats:// in NATS_URL" in told


@pytest.mark.parametrize("available", [False, True])
async def test_whoever_is_in_between_does_not_get_the_password(
    files: Files, available: bool
) -> None:
    sent = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.10.0", "max_payload": 1, "tls_available": available}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        writer.write(b"+OK\r\nPONG\r\n")
        sent.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        login = {"nats_user": "me", "nats_password": "hidden"}
        await refusal(settings(f"tls://127.0.0.1:{port}", nats_tls_ca=files.ca, **login))
    assert b"hidden" not in sent
    assert b"CONNECT" not in sent
    # A handshake, where the server seems to have TLS.
    assert sent[:1] == (b"\x16" if available else b"")


# The connection


async def test_a_connection_that_breaks_is_told_once(new_nats: Start) -> None:
    server = new_nats()
    ended = asyncio.Event()

    async def end() -> None:
        assert not ended.is_set()
        ended.set()

    config = settings(f"nats://127.0.0.1:{free_port()},{server.url}")
    client = await connect(config, name="tests", closed_cb=end)
    assert not ended.is_set()
    server.kill()
    async with asyncio.timeout(10):
        await ended.wait()
    assert client.is_closed
