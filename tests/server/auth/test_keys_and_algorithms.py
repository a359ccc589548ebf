"""Which keys a server takes, and what each may be used for."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from realtime_server.auth.keys_and_algorithms import import_jwks, import_secret

HMAC = ("HS256", "HS384", "HS512")
RSA = RSAKey.generate_key(2048)


def jwk(key: Key, **members: Any) -> dict[str, Any]:
    """Return a key's public part as a JSON Web Key."""
    return {**key.as_dict(private=False), **members}


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    return {"keys": list(keys)}


def test_a_secret_is_for_all_of_hmac() -> None:
    key = import_secret("SOMETHING_SUPER_SECRET")
    assert (key.algorithms, key.kid) == (HMAC, None)


@pytest.mark.parametrize("secret", ["", RSA.as_pem(private=False).decode()])
def test_what_anybody_knows_is_no_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="is empty or a public key; use a long random secret"):
        import_secret(secret)


def test_a_short_secret_is_taken_with_a_warning_that_does_not_show_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert import_secret("hunter2").algorithms == HMAC
    assert caplog.messages == ["JWT_SECRET is weak: Key size should be >= 112 bits"]


@pytest.mark.parametrize(
    ("key", "members", "algorithms"),
    [
        (OctKey.generate_key(256), {}, HMAC),
        (OctKey.generate_key(256), {"alg": "HS512"}, ("HS512",)),
        (RSA, {}, ("RS256", "RS384", "RS512")),
        (RSA, {"alg": "RS256", "use": "sig"}, ("RS256",)),
        (RSA, {"alg": "PS384"}, ("PS384",)),
        (ECKey.generate_key("P-256"), {}, ("ES256",)),
        (ECKey.generate_key("P-384"), {"alg": "ES384"}, ("ES384",)),
        (ECKey.generate_key("P-521"), {}, ("ES512",)),
        (OKPKey.generate_key("Ed25519"), {}, ("EdDSA", "Ed25519")),
        (OKPKey.generate_key("Ed25519"), {"alg": "EdDSA"}, ("EdDSA", "Ed25519")),
        (OKPKey.generate_key("Ed25519"), {"alg": "Ed25519"}, ("Ed25519",)),
        (OKPKey.generate_key("Ed448"), {}, ("EdDSA", "Ed448")),
    ],
)
def test_a_key_is_pinned_to_what_its_kind_and_its_alg_allow(
    key: Key, members: dict[str, Any], algorithms: tuple[str, ...]
) -> None:
    (read,) = import_jwks(jwks(jwk(key, kid="1", **members)))
    assert (read.algorithms, read.kid) == (algorithms, "1")


def test_of_a_private_key_the_public_part_is_kept() -> None:
    (read,) = import_jwks(jwks({**RSA.as_dict(private=True), "key_ops": ["sign"]}))
    assert not read.key.is_private


def test_keys_for_other_things_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    document = jwks(
        jwk(RSA, use="enc", kid="1"),
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "2"},
        jwk(OKPKey.generate_key("X25519"), kid="3"),
        jwk(ECKey.generate_key("secp256k1"), kid="4"),
        {"kid": "5"},
        jwk(RSA, kid="6"),
    )
    assert [key.kid for key in import_jwks(document)] == ["6"]
    assert caplog.messages == [
        f"JWT_JWKS: key {number} (kid '{number}') is left out: its kty and crv are not supported"
        for number in (2, 3, 4, 5)
    ]


@pytest.mark.parametrize("keys", [[], [{"kty": "AKP"}], [jwk(RSA, use="enc")]])
def test_a_set_without_a_key_that_can_be_used_is_refused(keys: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="has no key that verifies signatures; add an oct, RSA"):
        import_jwks(jwks(*keys))


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ({"kty": "RSA", "e": "AQAB"}, "has a key 2 whose values cannot be read; export it anew"),
        ({"kty": "RSA", "n": "!", "e": "AQAB"}, "has a key 2 whose values cannot be read; "),
        ({"kty": "RSA", "n": 5, "e": "AQAB"}, "has a key 2 whose values cannot be read; "),
        ({"kty": "oct", "k": ""}, "has a key 2 whose values cannot be read; "),
        (
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "k"},
            r"has a key 2 \(kid 'k'\) whose values cannot be read",
        ),
        ({"kty": "RSA", "kid": 7}, r"has a key 2 \(kid 7\) that is no string"),
        (jwk(RSA, alg="HS256"), "has a key 2 whose alg is 'HS256'; use one of"),
        (jwk(RSA, alg="none"), "has a key 2 whose alg is 'none'; use one of"),
        (jwk(ECKey.generate_key("P-256"), alg="ES384"), "has a key 2 whose alg is 'ES384'"),
    ],
)
def test_a_key_that_cannot_be_used_as_it_says_is_refused(
    member: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        import_jwks(jwks(jwk(RSA), member))


def test_no_problem_and_no_repr_shows_a_key() -> None:
    secret = "c2VjcmV0IHNlY3JldCBzZWNyZXQ"
    (key,) = import_jwks(jwks({"kty": "oct", "k": secret}))
    assert secret not in repr(key)
    assert "SOMETHING" not in repr(import_secret("SOMETHING_SUPER_SECRET"))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        import_jwks(jwks({"kty": "oct", "k": secret + "!"}))
    assert secret not in repr(caught.value)
