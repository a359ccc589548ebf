"""Tokens on real sockets: connecting, joining, refreshing, expiring.

Sections 5 to 7 of the specification, in STREAM mode with secure channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import Stage, fresh_database, open_stage
from tests.server_helpers import (
    DEADLINE,
    PhoenixClient,
    Vsn,
    dev_config,
    open_client,
)
from tests.server_process import ServerProcess
from tests.tokens import SECRET, forge, make_token, segment, sign
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

both_versions = pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"
KEY = OctKey.import_key(SECRET)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secure_stage(one_pg: Server) -> AsyncIterator[Stage]:
    settings = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}
    async with open_stage(one_pg, token=make_token(expires_in=86400), **settings) as stage:
        yield stage


@pytest.fixture
def stage(secure_stage: Stage) -> Iterator[Stage]:
    with secure_stage.scene():
        secure_stage.execute("create table item (id int8 primary key)")
        yield secure_stage


def client_of(
    stage: Stage, token: str | None = None, vsn: Vsn = "1.0.0"
) -> contextlib.AbstractAsyncContextManager[PhoenixClient]:
    token = make_token() if token is None else token
    return open_client(stage.port, vsn, query=f"vsn={vsn}&apikey={quote(token)}")


def shown(frame: Any) -> Any:
    """What a change's frame is about: its topic and the row's id."""
    topic, payload = (
        (frame["topic"], frame["payload"]) if isinstance(frame, dict) else (frame[2], frame[4])
    )
    return topic, payload["record"]["id"]


async def handshake(port: int, query: str = "", **headers: str) -> tuple[int, bytes]:
    """Try to connect; return the status, and the refusal's body."""
    uri = f"ws://127.0.0.1:{port}/socket/websocket?{query}"
    try:
        async with connect(uri, proxy=None, additional_headers=headers):
            return 101, b""
    except InvalidStatus as exc:
        return exc.response.status_code, bytes(exc.response.body or b"")


def now() -> int:
    return int(time.time())


OPEN = (101, b"")
REFUSED = (403, b"")

GOOD = {
    "HS256": make_token(),
    "HS384": make_token(algorithm="HS384"),
    "HS512": make_token(algorithm="HS512"),
    "percent-encoded": quote(make_token(), safe="").replace(".", "%2E"),
    "with white space": f" {make_token()}\n",
    "nbf in the past": make_token({"nbf": now() - 10}),
}
NO_JOIN = {
    "no exp": make_token(expires_in=None),
    "float exp": make_token({"exp": now() + 3600.5}),
}
"""Good for a socket and not for a channel."""
BAD = {
    "empty": "",
    "no token at all": "nonsense",
    "bad signature": forge(make_token(), signature=b"x" * 32),
    "another secret": make_token(secret="another secret altogether"),
    "other claims": forge(make_token(), claims={"exp": now() + 3600, "role": "service_role"}),
    "alg none": forge(make_token(), header={"typ": "JWT", "alg": "none"}, signature=b""),
    "alg None": forge(make_token(), header={"typ": "JWT", "alg": "None"}, signature=b""),
    "none, signature kept": forge(make_token(), header={"typ": "JWT", "alg": "none"}),
    "RS256": forge(make_token(), header={"typ": "JWT", "alg": "RS256"}),
    "typ missing": make_token(typ=None),
    "typ wrong": make_token(typ="JWE"),
    "string exp": make_token({"exp": str(now() + 3600)}),
    "expired": make_token(expires_in=-1),
    "expires now": make_token(expires_in=0),
    "nbf in the future": make_token({"nbf": now() + 3600}),
    "claims are a list": sign([now() + 3600], KEY, alg="HS256"),
    "two parts": make_token().rpartition(".")[0],
}


def cases(*tables: dict[str, str]) -> pytest.MarkDecorator:
    named = {name: token for table in tables for name, token in table.items()}
    return pytest.mark.parametrize("token", named.values(), ids=named.keys())


# Connecting.


@cases(GOOD, NO_JOIN)
@pytest.mark.parametrize("name", ["apikey", "token"])
async def test_a_good_token_in_the_query_connects(
    secure_stage: Stage, name: str, token: str
) -> None:
    assert await handshake(secure_stage.port, f"{name}={quote(token)}") == OPEN


@cases(BAD)
@pytest.mark.parametrize("name", ["apikey", "token"])
async def test_a_bad_token_is_403_with_an_empty_body(
    secure_stage: Stage, name: str, token: str
) -> None:
    assert await handshake(secure_stage.port, f"{name}={quote(token)}") == REFUSED


async def test_without_a_token_it_is_403_and_the_authorization_header_is_none(
    secure_stage: Stage,
) -> None:
    assert await handshake(secure_stage.port) == REFUSED
    bearer = {"authorization": f"Bearer {make_token()}"}
    assert await handshake(secure_stage.port, **bearer) == REFUSED


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("expired", "the token has expired"),
        ("nbf in the future", "the token's nbf has not come yet"),
        ("string exp", "the token's exp or nbf is not a time"),
        ("another secret", "the token's signature does not fit"),
        ("two parts", "the token is not a JSON Web Token, or too long"),
        ("alg none", "the token's alg is not one that its key is for"),
        (None, "no token was given"),
    ],
)
async def test_the_log_says_why_a_token_was_refused_and_nothing_of_the_token(
    secure_stage: Stage, case: str | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token = "" if case is None else BAD[case]
    query = "" if case is None else f"apikey={quote(token)}"
    assert await handshake(secure_stage.port, query) == REFUSED
    [line] = [each.getMessage() for each in caplog.records if each.name == "realtime.listener"]
    assert line.endswith(f" refused: token ({reason})")
    assert not any(part in caplog.text for part in token.split(".") if part)


async def test_the_header_goes_before_apikey_and_apikey_before_token(secure_stage: Stage) -> None:
    good, bad, port = quote(make_token()), "x", secure_stage.port
    for answer, query, headers in [
        (OPEN, "", {"x-api-key": good}),
        (OPEN, f"apikey={bad}&token={bad}", {"x-api-key": good}),
        (OPEN, f"apikey={bad}", {"X-API-Key": good}),
        (OPEN, f"apikey={good}&token={bad}", {}),
        (REFUSED, f"apikey={good}&token={good}", {"x-api-key": bad}),
        (REFUSED, f"apikey={bad}&token={good}", {}),
        (REFUSED, f"apikey=&token={good}", {}),
    ]:
        assert await handshake(port, query, **headers) == answer


# Joining.


@both_versions
async def test_a_channel_gets_changes_in_stream_mode(stage: Stage, vsn: Vsn) -> None:
    """The original crashes on the first one."""
    topic = stage.topic("item")
    async with client_of(stage, vsn=vsn) as client:
        await client.send(topic, "phx_join", {"user_token": make_token()}, ref="1", join_ref="1")
        assert await client.receive() == client.reply(topic, {}, join_ref="1")
        frames = await stage.frames(client, "insert into item values (1)")
        assert [shown(frame) for frame in frames] == [(topic, "1")]


@cases(GOOD)
@pytest.mark.parametrize("name", ["user_token", "access_token"])
async def test_a_good_token_joins(stage: Stage, name: str, token: str) -> None:
    async with client_of(stage, NO_JOIN["no exp"]) as client:
        await client.send(stage.topic(), "phx_join", {name: token})
        assert await client.receive() == client.reply(stage.topic(), {})


def no_entry(client: PhoenixClient, topic: str) -> Any:
    return client.refusal(topic, f"error occurred when joining {topic}")


@cases(NO_JOIN, BAD)
@pytest.mark.parametrize("name", ["user_token", "access_token"])
async def test_a_bad_token_joins_nothing_though_the_sockets_is_good(
    stage: Stage, name: str, token: str
) -> None:
    topic = stage.topic("item")
    async with client_of(stage) as client:
        await client.send(topic, "phx_join", {name: token})
        assert await client.receive() == no_entry(client, topic)
        assert await stage.frames(client, "insert into item values (1)") == []


@cases(NO_JOIN)
async def test_the_sockets_token_must_be_good_for_a_channel_to_join_with_it(
    stage: Stage, token: str
) -> None:
    async with client_of(stage, token) as client:
        await client.send(stage.topic(), "phx_join", {})
        assert await client.receive() == no_entry(client, stage.topic())


async def test_user_token_goes_before_access_token_and_that_before_the_sockets(
    stage: Stage,
) -> None:
    good, bad, topic = make_token(), "x", stage.topic()
    async with client_of(stage) as client:
        for payload, joins in [
            ({"user_token": good, "access_token": bad}, True),
            ({"user_token": bad, "access_token": good}, False),
            ({"user_token": None, "access_token": good}, True),
            ({"user_token": None, "access_token": bad}, False),
            ({"user_token": None, "access_token": None}, True),
            ({}, True),
            ([], True),
        ]:
            await client.send(topic, "phx_join", payload)
            answer = client.reply(topic, {}) if joins else no_entry(client, topic)
            assert await client.receive() == answer


@both_versions
async def test_a_join_with_a_config_is_told_what_is_wrong_with_its_token(
    stage: Stage, vsn: Vsn
) -> None:
    topic = stage.topic()
    async with client_of(stage, vsn=vsn) as client:
        await client.send(topic, "phx_join", {"config": {}, "access_token": BAD["expired"]})
        assert await client.receive() == client.refusal(
            topic, "InvalidJWTToken: the token has expired"
        )


# Staying.


@both_versions
@pytest.mark.parametrize("payload", [{}, {"config": {}}])
async def test_a_channel_ends_when_its_token_expires_and_the_socket_stays(
    stage: Stage, vsn: Vsn, payload: Any
) -> None:
    topic, other = stage.topic("item"), stage.topic()
    async with client_of(stage, vsn=vsn) as client:
        await client.join(other)
        expires = now() + 3
        token = make_token({"exp": expires})
        await client.send(topic, "phx_join", {"user_token": token, **payload}, join_ref="1")
        response = {"postgres_changes": []} if payload else {}
        assert await client.receive() == client.reply(topic, response, join_ref="1")
        # Nobody says anything; the server's timer does it.
        end = await client.receive()
        assert time.time() >= expires
        if payload:
            system = {
                "channel": topic.removeprefix("realtime:"),
                "extension": "system",
                "status": "error",
                "message": "the token has expired",
            }
            assert end == client.frame(topic, "system", system)
            end = await client.receive()
        name = "phx_close" if payload else "phx_error"
        assert end == client.frame(topic, name, {}, ref="1", join_ref="1")
        frames = await stage.frames(client, "insert into item values (1)")
        assert [shown(frame) for frame in frames] == [(other, "1")]


async def test_a_refreshed_channel_outlives_its_first_token(stage: Stage) -> None:
    topic, other = stage.topic("item"), stage.topic()
    async with client_of(stage) as client:
        short = make_token(expires_in=3)
        for name in (topic, other):
            await client.send(name, "phx_join", {"user_token": short})
            assert await client.receive() == client.reply(name, {})
        # It is not answered.
        await client.send(topic, "access_token", {"access_token": make_token()})
        assert await client.drain() == []
        assert await client.receive() == client.frame(other, "phx_error", {})
        frames = await stage.frames(client, "insert into item values (1)")
        assert [shown(frame) for frame in frames] == [(topic, "1")]


@cases(NO_JOIN, BAD)
async def test_a_refresh_with_a_bad_token_ends_the_channel(stage: Stage, token: str) -> None:
    topic = stage.topic("item")
    async with client_of(stage) as client:
        await client.join(topic)
        await client.send(topic, "access_token", {"access_token": token})
        assert await client.receive() == client.frame(topic, "phx_error", {}, ref="1")
        assert await stage.frames(client, "insert into item values (1)") == []
        await client.join(topic)


@pytest.mark.parametrize("payload", [{"access_token": None}, {}, [], None])
async def test_a_refresh_without_a_token_changes_nothing(stage: Stage, payload: Any) -> None:
    """realtime-js 1.7.5 sends it with each heartbeat where setAuth() was not called."""
    topic = stage.topic("item")
    async with client_of(stage) as client:
        await client.join(topic)
        await client.send(topic, "access_token", payload)
        frames = await stage.frames(client, "insert into item values (1)")
        assert [shown(frame) for frame in frames] == [(topic, "1")]


@pytest.mark.usefixtures("impatient")
async def test_validators_are_asked_of_every_token() -> None:
    validators = '{"iss": "Issuer", "nbf": 1610078130}'
    config = dev_config(
        NOWHERE, SECURE_CHANNELS="true", JWT_SECRET=SECRET, JWT_CLAIM_VALIDATORS=validators
    )
    good = make_token({"iss": "Issuer", "nbf": 1610078130})
    wrong = [
        make_token(),
        make_token({"iss": "Issuer"}),
        make_token({"iss": "issuer", "nbf": 1610078130}),
        make_token({"iss": "Issuer", "nbf": 1610078131}),
        make_token({"iss": ["Issuer"], "nbf": 1610078130}),
    ]
    async with RealtimeServer(config) as server:
        for token in wrong:
            assert await handshake(server.port, f"apikey={token}") == REFUSED
        async with open_client(server.port, query=f"apikey={good}") as client:
            await client.join("realtime:*")
            for token in wrong:
                await client.send("realtime:*", "phx_join", {"user_token": token})
                assert await client.receive() == no_entry(client, "realtime:*")


# Several keys.


def jwks(**keys: Key) -> str:
    return json.dumps(
        {"keys": [{**key.as_dict(private=False), "kid": kid} for kid, key in keys.items()]}
    )


async def test_asymmetric_keys_serve_beside_the_secret() -> None:
    keys: dict[str, Key] = {
        "rsa": RSAKey.generate_key(2048),
        "ec": ECKey.generate_key("P-256"),
        "okp": OKPKey.generate_key("Ed25519"),
    }
    config = dev_config(NOWHERE, SECURE_CHANNELS="true", JWT_SECRET=SECRET, JWT_JWKS=jwks(**keys))
    claims = {"exp": now() + 3600}
    pem = keys["rsa"].as_pem(private=False)
    async with RealtimeServer(config) as server:
        for kid, algorithm in {"rsa": "RS256", "ec": "ES256", "okp": "Ed25519"}.items():
            for header in ({"kid": kid}, {}):
                token = sign(claims, keys[kid], alg=algorithm, **header)
                assert await handshake(server.port, f"apikey={token}") == OPEN
        assert await handshake(server.port, f"apikey={make_token()}") == OPEN
        # Key confusion: the public key as a secret.
        for secret in (pem, pem.strip()):
            head = f"{segment({'typ': 'JWT', 'alg': 'HS256', 'kid': 'rsa'})}.{segment(claims)}"
            raw = OctKey(secret, secret)
            forged = sign(claims, raw, alg="HS256", kid="rsa")
            assert forged.startswith(head.split(".")[0][:10])
            assert await handshake(server.port, f"apikey={forged}") == REFUSED


@pytest.mark.usefixtures("impatient")
async def test_keys_are_rotated_while_clients_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    file = tmp_path / "jwks.json"
    file.write_text(jwks(old=old))
    config = dev_config(NOWHERE, SECURE_CHANNELS="true", JWT_JWKS_FILE=str(file))

    def token(key: Key) -> str:
        kid = "old" if key is old else "new"
        return sign({"exp": now() + 3600}, key, alg="ES256", kid=kid)

    async with RealtimeServer(config) as server:
        assert await handshake(server.port, f"apikey={token(new)}") == REFUSED
        async with open_client(server.port, query=f"apikey={token(old)}") as client:
            await client.join("realtime:a")
            file.write_text(jwks(old=old, new=new))
            server.reload_keys()
            for key in (old, new):
                assert await handshake(server.port, f"apikey={token(key)}") == OPEN
            await client.send("realtime:b", "phx_join", {"user_token": token(new)})
            assert await client.receive() == client.reply("realtime:b", {})
            assert await client.drain() == []
            # A file that is no good leaves the keys as they are.
            for text in ("{", '{"keys": []}', '{"keys": [{"kty": "EC", "crv": "P-256"}]}'):
                file.write_text(text)
                server.reload_keys()
            file.unlink()
            server.reload_keys()
            assert caplog.text.count("the keys stay as they are: JWT_JWKS") == 4
            assert await client.drain() == []
            file.write_text(jwks(new=new))
            server.reload_keys()
            # What the old key signed is good no more, and the next heartbeat sees it.
            assert await handshake(server.port, f"apikey={token(old)}") == REFUSED
            ended = client.frame("realtime:a", "phx_error", {}, ref="1")
            assert await client.drain() == [ended]


async def test_keys_that_are_not_in_a_file_are_not_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for settings, line in [
        ({"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}, "JWT_JWKS_FILE is unset"),
        ({}, "no keys are read, because SECURE_CHANNELS is false"),
    ]:
        RealtimeServer(dev_config(NOWHERE, **settings)).reload_keys()
        assert line in caplog.text


async def test_many_channels_with_one_short_token_all_end(stage: Stage) -> None:
    topics = [f"{stage.topic('item')}:id=eq.{number}" for number in range(50)]
    async with client_of(stage) as client, asyncio.timeout(DEADLINE):
        token = make_token(expires_in=3)
        for topic in topics:
            await client.send(topic, "phx_join", {"user_token": token})
            assert await client.receive() == client.reply(topic, {})
        ended = [await client.receive() for _ in topics]
        assert ended == [client.frame(topic, "phx_error", {}) for topic in topics]
        hub = stage.server.hub
        await eventually(lambda: hub.stats().subscriptions == 1)  # the fence's


# Secrecy.


@pytest.mark.parametrize("style", ["text", "json"])
async def test_no_token_is_in_a_log_an_answer_or_a_metric(
    one_pg: Server, tmp_path: Path, style: str
) -> None:
    """Everything that the process writes is searched for every part of every token."""
    key = ECKey.generate_key("P-256")
    file = tmp_path / "jwks.json"
    file.write_text(jwks(k=key))
    claims = {"exp": now() + 3600, "email": "ada@lovelace.example"}
    tokens = [
        *({**GOOD, **NO_JOIN, **BAD}).values(),
        sign(claims, key, alg="ES256", kid="k"),
    ]
    heard: list[Any] = []
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        settings = {
            "PUBLICATIONS": '["shop"]',
            "SECURE_CHANNELS": "true",
            "JWT_SECRET": SECRET,
            "JWT_JWKS_FILE": str(file),
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": style,
        }
        with ServerProcess(database.dsn, **settings) as server:
            for token in tokens:
                heard.append(await handshake(server.port, f"apikey={quote(token)}"))
                headers = {"x-api-key": quote(token), "authorization": f"Bearer {quote(token)}"}
                heard.append(await handshake(server.port, f"token={quote(token)}", **headers))
            query = f"apikey={GOOD['HS256']}"
            async with open_client(server.port, query=query) as client:
                for number, token in enumerate(tokens):
                    for payload in ({"user_token": token}, {"access_token": token, "config": {}}):
                        topic = f"realtime:{number}:{len(payload)}"
                        await client.send(topic, "phx_join", payload)
                        await client.send(topic, "access_token", {"access_token": token})
                await client.send(GOOD["HS384"], "phx_join", {})
                heard += await client.drain()
                # One more, whose channel ends, and a broken frame, which ends the connection.
                tokens.append(make_token({**claims, "exp": now() + 3}))
                await client.send(
                    "realtime:short", "phx_join", {"config": {}, "user_token": tokens[-1]}
                )
                while not heard or heard[-1]["event"] != "phx_close":
                    heard.append(await client.receive())
                await client.send_raw(f'{{"topic":"{GOOD["HS512"]}')
                heard.append(await client.closed())
            file.write_text(f'{{"keys": [{{"kty": "oct", "k": "{SECRET}"}}], "x": "{SECRET}"')
            server.process.send_signal(signal.SIGHUP)
            await eventually(lambda: "the keys stay as they are" in "".join(server.log))
            heard.append(await http(server.port, f"/metrics?token={GOOD['HS256']}"))
            heard.append(await http(server.port, f"/{GOOD['HS256']}"))
            heard.append(await http(server.port, f"/no request?apikey={GOOD['HS256']}"))
            for path in ("/health", "/ready"):
                heard.append(await http(server.port, path))
        log = "".join(server.log)
    assert "InvalidJWTToken: the token" in str(heard)
    assert 'realtime_joins_total{result="token"}' in str(heard)
    assert "ended: the token has expired" in log
    # A topic is no secret, and is named.
    everything = (log + str(heard)).replace(GOOD["HS384"], "")
    for token in tokens:
        for part in [token, quote(token), *token.split(".")]:
            # Shorter ones are words like "nonsense".
            assert len(part) < 12 or part not in everything
    for secret in (SECRET, "lovelace", str(key.as_dict(private=True)["d"])):
        assert secret not in everything


async def http(port: int, target: str) -> str:
    """Send a request; return the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(DEADLINE):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read()
    writer.close()
    return answer.decode()
