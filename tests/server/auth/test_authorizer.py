"""Who may connect, join and stay. Sections 5 and 6 of the specification."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import OctKey

from realtime_server.auth.authorizer import (
    AllowAll,
    Authorizer,
    ConnectRequest,
    JoinRequest,
    TokenAuthorizer,
)
from realtime_server.auth.grant import Grant
from realtime_server.auth.keys_and_algorithms import import_secret
from realtime_server.auth.tokens import TokenVerifier
from realtime_server.errors import TokenError
from tests.tokens import SECRET, sign

KEY = OctKey.import_key(SECRET)
TOPIC = "realtime:*"


def token(exp: Any = 100, **claims: Any) -> str:
    expiry = {} if exp is None else {"exp": exp}
    return sign({**expiry, **claims}, KEY, alg="HS256")


def request(*, headers: dict[str, str] | None = None, **query: str) -> ConnectRequest:
    return ConnectRequest("/socket/websocket", {"vsn": "1.0.0", **query}, headers or {})


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authorizer(clock: Clock) -> TokenAuthorizer:
    return TokenAuthorizer(TokenVerifier([import_secret(SECRET)]), clock=clock)


async def test_open_channels_let_everybody_connect_join_and_stay() -> None:
    everybody: Authorizer = AllowAll()
    connecting = request(headers={"x-api-key": "nonsense"})
    await everybody.connect(connecting)
    grant = await everybody.join(JoinRequest(connecting, TOPIC, {"user_token": "nonsense"}))
    assert grant == Grant() == everybody.check(grant) == await everybody.refresh(grant, "nonsense")
    assert (grant.claims, grant.role, grant.expires_at) == ({}, None, None)


# Connecting.


@pytest.mark.parametrize(
    "connecting",
    [
        request(headers={"x-api-key": token()}),
        request(apikey=token()),
        request(token=token()),
        request(headers={"x-api-key": token()}, apikey="x", token="x"),
        request(apikey=token(), token="x"),
        # Only a join needs an expiry.
        request(apikey=token(None)),
        request(apikey=token(100.5)),
    ],
)
async def test_the_header_goes_before_apikey_and_apikey_before_token(
    authorizer: TokenAuthorizer, connecting: ConnectRequest
) -> None:
    await authorizer.connect(connecting)


@pytest.mark.parametrize(
    "connecting",
    [
        request(),
        request(headers={"authorization": f"Bearer {token()}"}),
        request(headers={"x-api-key": "x"}, apikey=token(), token=token()),
        request(headers={"x-api-key": ""}, apikey=token()),
        request(apikey="x", token=token()),
        request(token=token(50)),
        request(token=token("100")),
    ],
)
async def test_without_a_good_token_in_the_first_place_nobody_connects(
    authorizer: TokenAuthorizer, connecting: ConnectRequest
) -> None:
    with pytest.raises(TokenError):
        await authorizer.connect(connecting)


# Joining.


async def join(authorizer: Authorizer, payload: Any, connecting: ConnectRequest) -> Grant:
    return await authorizer.join(JoinRequest(connecting, TOPIC, payload))


async def test_a_join_gives_the_claims_the_role_and_the_expiry(authorizer: TokenAuthorizer) -> None:
    grant = await join(authorizer, {"user_token": token(role="editor", sub="7")}, request())
    assert grant.claims == {"exp": 100, "role": "editor", "sub": "7"}
    assert (grant.role, grant.expires_at) == ("editor", 100)


@pytest.mark.parametrize("role", [None, 5, ["editor"], {}])
async def test_a_role_that_is_no_name_is_none(authorizer: TokenAuthorizer, role: Any) -> None:
    assert (await join(authorizer, {"user_token": token(role=role)}, request())).role is None


async def test_user_token_goes_before_access_token_and_that_before_the_sockets(
    authorizer: TokenAuthorizer,
) -> None:
    user, access, socket = token(sub="user"), token(sub="access"), token(sub="socket")
    connecting = request(apikey=socket)
    for payload, sub in [
        ({"user_token": user, "access_token": access}, "user"),
        ({"access_token": access}, "access"),
        ({"user_token": None, "access_token": access}, "access"),
        ({"access_token": None}, "socket"),
        ({}, "socket"),
        ([], "socket"),
        (None, "socket"),
        ("user_token", "socket"),
    ]:
        assert (await join(authorizer, payload, connecting)).claims["sub"] == sub


@pytest.mark.parametrize(
    "payload",
    [
        {"user_token": ""},
        {"user_token": 5},
        {"user_token": {}},
        {"user_token": token(50)},
        {"user_token": token(None)},
        {"user_token": token("100")},
        {"user_token": token(100.0)},
        {"user_token": "x", "access_token": token()},
        {"access_token": "x"},
    ],
)
async def test_a_bad_token_is_refused_though_the_sockets_is_good(
    authorizer: TokenAuthorizer, payload: Any
) -> None:
    with pytest.raises(TokenError):
        await join(authorizer, payload, request(apikey=token()))


@pytest.mark.parametrize("query", [{}, {"apikey": token(None)}, {"apikey": "x", "token": token()}])
async def test_a_join_without_a_token_of_its_own_needs_a_good_one_of_the_sockets(
    authorizer: TokenAuthorizer, query: dict[str, str]
) -> None:
    with pytest.raises(TokenError):
        await join(authorizer, {}, request(**query))


# Staying.


async def test_a_channel_may_stay_until_its_token_expires(
    authorizer: TokenAuthorizer, clock: Clock
) -> None:
    grant = await join(authorizer, {"user_token": token()}, request())
    clock.now = 99.9
    assert authorizer.check(grant) is grant
    clock.now = 100.0
    with pytest.raises(TokenError, match="the token has expired"):
        authorizer.check(grant)


async def test_a_refresh_takes_the_new_claims(authorizer: TokenAuthorizer, clock: Clock) -> None:
    grant = await join(authorizer, {"user_token": token(role="reader")}, request())
    grant = await authorizer.refresh(grant, token(200, role="editor"))
    assert (grant.role, grant.expires_at) == ("editor", 200)
    clock.now = 150.0
    assert authorizer.check(grant) is grant


async def test_no_new_token_or_the_same_one_leaves_the_grant_as_it_is(
    authorizer: TokenAuthorizer, clock: Clock
) -> None:
    grant = await join(authorizer, {"user_token": token()}, request())
    for same in (None, token()):
        assert await authorizer.refresh(grant, same) is grant
    clock.now = 100.0
    for same in (None, token()):
        with pytest.raises(TokenError, match="the token has expired"):
            await authorizer.refresh(grant, same)


@pytest.mark.parametrize("bad", ["", "x", 5, [], token(50), token(None), token(200.0)])
async def test_a_refresh_with_a_bad_token_is_refused(authorizer: TokenAuthorizer, bad: Any) -> None:
    grant = await join(authorizer, {"user_token": token()}, request())
    with pytest.raises(TokenError):
        await authorizer.refresh(grant, bad)


async def test_with_other_keys_a_channels_token_is_verified_anew(
    authorizer: TokenAuthorizer,
) -> None:
    grant = await join(authorizer, {"user_token": token(sub="7")}, request())
    both = [import_secret("another secret altogether"), import_secret(SECRET)]
    authorizer.use(TokenVerifier(both))
    renewed = authorizer.check(grant)
    assert (renewed.claims, authorizer.check(renewed)) == (grant.claims, renewed)
    authorizer.use(TokenVerifier(both[:1]))
    for former in (grant, renewed):
        with pytest.raises(TokenError, match="signature does not fit"):
            authorizer.check(former)


async def test_no_repr_shows_a_token_or_a_claim(authorizer: TokenAuthorizer) -> None:
    secret = token(sub="who")
    joining = JoinRequest(
        request(headers={"x-api-key": secret}, apikey=secret), TOPIC, {"user_token": secret}
    )
    grant = await authorizer.join(joining)
    for shown in (repr(joining), repr(joining.connect), repr(grant)):
        assert secret not in shown
        assert "who" not in shown
