from __future__ import annotations

from typing import Any

import pytest

from realtime_server.auth.authorizer import ConnectRequest
from realtime_server.config.choices import IdentityKind
from realtime_server.phoenix.joins import parse_join
from realtime_server.replay.absences import Absence, Absences
from realtime_server.replay.identity import Identifier, Key

SESSION = "0f2c9a34-8d1e-4b57"
ALL = tuple(IdentityKind)


def key_of(
    *,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    address: str = "192.0.2.1",
    claims: dict[str, Any] | None = None,
    topic: str = "realtime:room",
    config: Any = None,
    kinds: tuple[IdentityKind, ...] = ALL,
    names: tuple[str, ...] = ("session_id", "sub"),
    secret: bytes = b"secret",
) -> Key | None:
    identifier = Identifier(secret, kinds=kinds, claims=names)
    request = ConnectRequest("/socket/websocket", query or {}, headers or {})
    parsed = None if config is None else parse_join({"config": config})
    bindings = None if parsed is None else parsed.bindings
    return identifier.visitor(request, address).key(claims or {}, topic, bindings)


def test_a_session_is_exact_and_comes_before_claims_and_address() -> None:
    one = key_of(query={"session": SESSION}, claims={"session_id": "a"}, address="192.0.2.1")
    other = key_of(query={"session": SESSION}, claims={"session_id": "b"}, address="192.0.2.2")
    assert one is not None
    assert one.is_exact
    assert one == other


@pytest.mark.parametrize("session", ["", "x" * 15, "x" * 129, "x" * 1_000_000])
def test_a_session_that_can_be_guessed_or_is_too_long_does_not_count(session: str) -> None:
    key = key_of(query={"session": session}, claims={"sub": "alice"})
    assert key is not None
    assert not key.is_exact
    assert key == key_of(claims={"sub": "alice"})


@pytest.mark.parametrize("session", ["x" * 16, "x" * 128])
def test_a_session_of_16_to_128_characters_counts(session: str) -> None:
    key = key_of(query={"session": session})
    assert key is not None
    assert key.is_exact


def test_the_first_claim_that_the_token_has_counts() -> None:
    by_session = key_of(claims={"session_id": "s", "sub": "alice"})
    assert by_session == key_of(claims={"session_id": "s", "sub": "alice"}, address="192.0.2.2")
    assert by_session != key_of(claims={"sub": "alice"})
    assert key_of(claims={"sub": "alice"}) == key_of(claims={"sub": "alice", "iat": 5})


def test_a_claim_that_is_no_text_or_number_says_nothing() -> None:
    assert key_of(claims={"sub": None}) == key_of(claims={"sub": {"a": 1}}) == key_of()
    assert key_of(claims={"sub": "7"}) != key_of(claims={"sub": 7})


def test_nobody_goes_on_in_anothers_name() -> None:
    query = {"session": SESSION}
    alice, bob = ({"sub": name, "role": "authenticated"} for name in ("alice", "bob"))
    assert key_of(query=query, claims=alice) != key_of(query=query, claims=bob)
    assert key_of(query=query, claims={"role": "anon"}) != key_of(query=query)


def test_an_address_stands_with_browser_page_and_query_but_not_with_the_token() -> None:
    query, headers = {"vsn": "1.0.0", "room": "5"}, {"user-agent": "a", "origin": "https://b"}
    key = key_of(query=query, headers=headers)
    assert key is not None
    assert not key.is_exact
    assert key == key_of(query={**query, "apikey": "x", "token": "y"}, headers=headers)
    assert key != key_of(query=query, headers=headers, address="192.0.2.2")
    assert key != key_of(query=query, headers={**headers, "user-agent": "c"})
    assert key != key_of(query=query, headers={**headers, "origin": "https://d"})
    assert key != key_of(query={**query, "room": "6"}, headers=headers)


def test_without_an_address_there_is_no_key() -> None:
    assert key_of(address="") is None


@pytest.mark.parametrize("left_out", ALL)
def test_a_kind_that_is_left_out_does_not_count(left_out: IdentityKind) -> None:
    kinds = tuple(kind for kind in ALL if kind is not left_out)
    asked: dict[IdentityKind, dict[str, Any]] = {
        IdentityKind.SESSION: {"query": {"session": SESSION}, "address": ""},
        IdentityKind.CLAIMS: {"claims": {"sub": "alice"}, "address": ""},
        IdentityKind.ADDRESS: {},
    }
    assert key_of(**asked[left_out]) is not None
    assert key_of(**asked[left_out], kinds=kinds) is None


def test_the_topic_and_what_is_asked_for_are_part_of_the_key() -> None:
    def config(**binding: Any) -> dict[str, Any]:
        return {"postgres_changes": [{"event": "*", "schema": "public", **binding}]}

    asked: list[dict[str, Any]] = [
        {},
        {"topic": "realtime:other"},
        {"config": {}},
        {"config": config(table="a")},
        {"config": config(table="b")},
        {"config": config(table="a", filter="id=eq.1")},
        {"config": config(table="a", select=["id"])},
        {"config": config(table="a", event="DELETE", filter="id=eq.1")},
        {"config": config(table="a", event="DELETE", filter="id=eq.1", leaves=True)},
    ]
    assert len({key_of(**one) for one in asked}) == len(asked)
    assert key_of(config=config(table="a")) == key_of(config=config(table="a", select=None))


def test_keys_of_another_secret_are_others_and_show_nothing() -> None:
    key = key_of(query={"session": SESSION})
    assert key is not None
    assert key != key_of(query={"session": SESSION}, secret=b"another")
    assert SESSION not in repr(key)
    assert len(key.digest) == 16


def test_the_address_and_the_subject_say_whose_a_key_is_and_nothing_a_client_chooses() -> None:
    def key(session: str = "", sub: str = "alice", address: str = "192.0.2.1") -> Key:
        key = key_of(query={"session": session}, claims={"sub": sub}, address=address)
        assert key is not None
        return key

    assert key(SESSION + "1").whose == key(SESSION + "2").whose == key().whose
    other = key(address="192.0.2.2")
    assert key().owner(0) != other.owner(0)
    assert key().owner(1) != other.owner(1)
    assert key().owner(2) == other.owner(2) != key(sub="bob").owner(2)


def test_a_connection_with_several_tokens_names_the_subject_of_each_channel() -> None:
    identifier = Identifier(b"secret", kinds=ALL, claims=("sub",))
    visitor = identifier.visitor(ConnectRequest("/", {}, {}), "192.0.2.1")
    keys = [visitor.key(claims, "realtime:room", None) for claims in ({}, {"sub": "ann"}, {})]
    owners = [key.owner(2) for key in keys if key is not None]
    assert owners[0] == owners[2] != owners[1]


def test_addresses_of_one_customer_are_one() -> None:
    def owner(address: str, level: int) -> bytes:
        key = key_of(address=address, claims={"sub": "alice"})
        assert key is not None
        return key.owner(level)

    def site(address: str) -> bytes:
        return owner(address, 0)

    def network(address: str) -> bytes:
        return owner(address, 1)

    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert site("2001:db8::1") == site("2001:db8:0:ffff::1") != site("2001:db8:1::1")
    for name in (site, network):
        assert name("::ffff:192.0.2.1") == name("192.0.2.1") != name("192.0.2.2")
        assert name("_hidden") != name("")


@pytest.mark.slow
def test_one_customer_with_many_networks_drives_nobody_elses_absences_out() -> None:
    absences = Absences(window=300.0, most=100, clock=lambda: 0.0)
    everybody: list[Absence] = []
    for address in [f"2001:db8:{site:x}::1" for site in range(1, 11)] + [
        f"2001:db8:0:{network:x}::1" for network in range(2000)
    ]:
        key = key_of(query={"session": SESSION + address}, address=address)
        assert key is not None
        everybody.append(Absence(key, 1, (1, 0), 0.0))
        absences.add(everybody[-1])
    assert len(absences) == 100
    assert all(map(absences.keeps, everybody[:10]))
