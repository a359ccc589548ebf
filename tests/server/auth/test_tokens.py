"""Which tokens are trusted. Section 7 of the specification; on real sockets elsewhere."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from realtime_server.auth.claims import dump_claims, load_claims
from realtime_server.auth.keys_and_algorithms import VerificationKey, import_jwks, import_secret
from realtime_server.auth.tokens import TokenVerifier
from realtime_server.errors import RefusedError, TokenError
from realtime_server.rls.viewers import Viewer
from tests.tokens import SECRET, forge, make_token, segment, sign, sign_text

NOW = 1_800_000_000.5
LATER = 1_800_000_001
KEY = OctKey.import_key(SECRET)
VERIFIER = TokenVerifier([import_secret(SECRET)])
GOOD = sign({"exp": LATER, "role": "authenticated"}, KEY, alg="HS256")

RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")
ED25519 = OKPKey.generate_key("Ed25519")
ED448 = OKPKey.generate_key("Ed448")


def token(claims: Any, **header: Any) -> str:
    return sign(claims, KEY, **{"alg": "HS256", **header})


def jwk(key: Key, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **members}


def verifier(*keys: dict[str, Any]) -> TokenVerifier:
    return TokenVerifier(import_jwks({"keys": list(keys)}))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_gives_its_claims(algorithm: str) -> None:
    claims = {"exp": LATER, "role": "authenticated", "app_metadata": {"a": [1, 2.5, None]}}
    assert VERIFIER.verify(token(claims, alg=algorithm), NOW) == claims


@pytest.mark.parametrize("exp", [LATER, LATER + 0.5, 10**30])
def test_a_token_lives_until_exp(exp: float) -> None:
    assert VERIFIER.verify(token({"exp": exp}), NOW) == {"exp": exp}


@pytest.mark.parametrize("exp", [1_800_000_000, NOW, 0, -1, 1.0])
def test_at_exp_it_has_expired(exp: float) -> None:
    with pytest.raises(TokenError, match="the token has expired"):
        VERIFIER.verify(token({"exp": exp}), NOW)


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", ["1800000001", True, None, [LATER], {}])
def test_a_time_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TokenError, match="exp or nbf is not a time"):
        VERIFIER.verify(token({name: value}), NOW)


def test_a_token_does_not_live_before_nbf() -> None:
    assert VERIFIER.verify(token({"nbf": 1_800_000_000}), NOW)
    with pytest.raises(TokenError, match="nbf has not come yet"):
        VERIFIER.verify(token({"nbf": LATER}), NOW)


def test_an_iat_a_little_ahead_does_not_matter() -> None:
    assert VERIFIER.verify(token({"iat": LATER, "sub": 5, "iss": [], "jti": None}), NOW)


@pytest.mark.parametrize("claims", [{"sub": "\ud800"}, {"a": ["\udc00x"]}, {"\ud800": 1}])
def test_half_of_a_surrogate_pair_is_refused(claims: Any) -> None:
    with pytest.raises(TokenError, match="claims have half of a surrogate pair"):
        VERIFIER.verify(token({"exp": LATER, **claims}), NOW)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert VERIFIER.verify(token({"exp": LATER, "sub": "\U0001f600"}), NOW)["sub"] == "\U0001f600"


@pytest.mark.parametrize(
    "written",
    [quote(GOOD, safe=""), GOOD.replace(".", "%2E"), f"  {GOOD}\n", GOOD.replace(".", ". \n")],
)
def test_percent_encoding_and_white_space_are_tolerated(written: str) -> None:
    assert VERIFIER.verify(written, NOW)["role"] == "authenticated"


@pytest.mark.parametrize("typ", [None, "jwt", "at+jwt", "JWS", "", 5, ["JWT"]])
def test_typ_must_be_jwt(typ: Any) -> None:
    with pytest.raises(TokenError, match="the token's header has no typ of JWT"):
        VERIFIER.verify(_signed_by_hand({"typ": typ, "alg": "HS256"}, {"exp": LATER}), NOW)


def _signed_by_hand(header: Any, claims: Any, secret: bytes = SECRET.encode()) -> str:
    text = f"{segment(header)}.{segment(claims)}"
    return f"{text}.{segment(hmac.digest(secret, text.encode(), hashlib.sha256))}"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "is not a JSON Web Token"),
        ("x", "is not a JSON Web Token"),
        ("a.b", "is not a JSON Web Token"),
        (GOOD + ".x", "is not a JSON Web Token"),
        (GOOD[1:], "is not a JSON Web Token"),
        ("..", "is not a JSON Web Token"),
        ("ä.ö.ü", "is not a JSON Web Token"),
        ("\ud800.x.x", "is not a JSON Web Token"),
        ("%00%ff", "is not a JSON Web Token"),
        ("x" * 1_000_000, "is not a JSON Web Token, or too long"),
        (forge(GOOD, header={"typ": "JWT"}), "is not a JSON Web Token"),
        (forge(GOOD, header=5), "is not a JSON Web Token"),
        (forge(GOOD, header=b"[" * 300), "is not a JSON Web Token"),
        (forge(GOOD, header="the alg"), "header is not a JSON object"),
        (forge(GOOD, header=["alg", "typ"]), "header is not a JSON object"),
        (GOOD[:-1] + ("A" if GOOD[-1] != "A" else "E"), "signature does not fit"),
        (GOOD.rpartition(".")[0] + ".", "signature does not fit"),
        (GOOD.rpartition(".")[0] + ".!!", "signature does not fit"),
        (forge(GOOD, claims={"exp": LATER, "role": "service_role"}), "signature does not fit"),
        (make_token(secret="SOMETHING_ELSE_ALTOGETHER"), "signature does not fit"),
        (
            _signed_by_hand({"typ": "JWT", "alg": "HS256", "crit": ["exp"]}, {"exp": LATER}),
            "critical extension",
        ),
        (token([{"exp": LATER}]), "claims are not a JSON object"),
        (token("exp"), "claims are not a JSON object"),
        (_signed_by_hand({"typ": "JWT", "alg": "HS256"}, b"{"), "claims are not JSON"),
        (_signed_by_hand({"typ": "JWT", "alg": "HS256"}, b'{"exp":NaN}'), "claims are not JSON"),
        (
            _signed_by_hand({"typ": "JWT", "alg": "HS256"}, b"[" * 50_000),
            "claims are not JSON",
        ),
        (
            _signed_by_hand({"typ": "JWT", "alg": "HS256"}, b'{"exp":' + b"9" * 5000 + b"}"),
            "claims are not JSON",
        ),
    ],
)
def test_what_is_no_good_token_is_refused_with_the_reason(bad: str, why: str) -> None:
    with pytest.raises(TokenError, match=why) as caught:
        VERIFIER.verify(bad, NOW)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("alg", ["none", "None", "HS1", "RS256", "ES256", "", 5, None, ["HS256"]])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_another_algorithm_is_refused_whatever_the_signature(alg: Any, signature: bytes) -> None:
    bad = forge(GOOD, header={"typ": "JWT", "alg": alg}, signature=signature)
    with pytest.raises(TokenError, match="alg is not one that its key is for"):
        VERIFIER.verify(bad, NOW)


def test_an_unencoded_payload_is_refused() -> None:
    """RFC 7797 would have the payload signed as it stands."""
    header = {"typ": "JWT", "alg": "HS256", "b64": False, "crit": ["b64"]}
    text = f"{segment(header)}.{json.dumps({'exp': LATER})}"
    signature = segment(hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256))
    with pytest.raises(TokenError, match="critical extension"):
        VERIFIER.verify(f"{text}.{signature}".replace(" ", ""), NOW)


# Several keys.


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA, "RS256"),
        (RSA, "RS384"),
        (RSA, "RS512"),
        (EC, "ES256"),
        (ECKey.generate_key("P-384"), "ES384"),
        (ECKey.generate_key("P-521"), "ES512"),
        (ED25519, "Ed25519"),
        (ED448, "Ed448"),
    ],
)
@pytest.mark.parametrize("kid", [None, "1"])
def test_asymmetric_keys_verify(key: Key, algorithm: str, kid: str | None) -> None:
    one = verifier(jwk(key, kid="1"))
    assert one.verify(sign({"exp": LATER}, key, alg=algorithm, kid=kid), NOW) == {"exp": LATER}
    with pytest.raises(TokenError, match="signature does not fit"):
        one.verify(sign({"exp": LATER}, _twin(key), alg=algorithm, kid=kid), NOW)


def _twin(key: Key) -> Key:
    """Another key of the same kind."""
    match key:
        case RSAKey():
            return RSAKey.generate_key(2048)
        case ECKey():
            return ECKey.generate_key(key.curve_name)
        case OKPKey():
            return OKPKey.generate_key(key.curve_name)
    raise AssertionError


@pytest.mark.parametrize("key", [ED25519, ED448])
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_eddsa_is_the_curve_that_the_key_has(key: OKPKey) -> None:
    assert verifier(jwk(key)).verify(sign({"exp": LATER}, key, alg="EdDSA"), NOW)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("key", [RSA, EC, ED25519])
def test_a_public_key_is_no_shared_secret(key: Key, algorithm: str) -> None:
    """Key confusion: what everybody may know must not sign."""
    pem = key.as_pem(private=False)
    header = {"typ": "JWT", "alg": algorithm}
    for secret in (pem, pem.strip(), json.dumps(key.as_dict(private=False)).encode()):
        with pytest.raises(TokenError, match="alg is not one that its key is for"):
            verifier(jwk(key)).verify(_signed_by_hand(header, {"exp": LATER}, secret), NOW)


def test_a_key_of_one_kind_does_not_serve_for_another() -> None:
    both = verifier(jwk(RSA, kid="1"), jwk(EC, kid="2"))
    for key, algorithm, kid in ((RSA, "RS256", "2"), (EC, "ES256", "1")):
        with pytest.raises(TokenError, match="alg is not one that its key is for"):
            both.verify(sign({"exp": LATER}, key, alg=algorithm, kid=kid), NOW)


def test_an_alg_that_a_key_is_not_for_is_refused_though_the_key_could() -> None:
    with pytest.raises(TokenError, match="alg is not one that its key is for"):
        verifier(jwk(RSA, alg="RS512")).verify(sign({"exp": LATER}, RSA, alg="RS256"), NOW)


def test_kid_chooses_the_key_and_without_it_any_may_fit() -> None:
    old, new = OctKey.generate_key(256), OctKey.generate_key(256)
    both = verifier(old.as_dict(private=True, kid="old"), new.as_dict(private=True, kid="new"))
    for key, kid in ((old, "old"), (new, "new"), (old, None), (new, None)):
        assert both.verify(sign({"exp": LATER}, key, alg="HS256", kid=kid), NOW)
    with pytest.raises(TokenError, match="signature does not fit"):
        both.verify(sign({"exp": LATER}, old, alg="HS256", kid="new"), NOW)
    for kid in ("other", "", 5, ["old"]):
        header = {"typ": "JWT", "alg": "HS256", "kid": kid}
        with pytest.raises(TokenError, match="kid names no key"):
            both.verify(_signed_by_hand(header, {"exp": LATER}), NOW)


def test_a_kid_that_no_key_has_leaves_those_without_one() -> None:
    keys = [import_secret(SECRET), *import_jwks({"keys": [jwk(RSA, kid="1")]})]
    assert TokenVerifier(keys).verify(token({"exp": LATER}, kid="legacy"), NOW)
    with pytest.raises(TokenError, match="alg is not one that its key is for"):
        TokenVerifier(keys).verify(token({"exp": LATER}, kid="1"), NOW)


# Validators.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Issuer", "Issuer"),
        (1610078130, 1610078130),
        (1610078130.0, 1610078130),
        (True, True),
        (None, None),
        (["a", "b"], ["a", "b"]),
        ({"a": [1, {"b": False}]}, {"a": [1, {"b": False}]}),
    ],
)
def test_a_claim_that_equals_its_validator_passes(value: Any, expected: Any) -> None:
    strict = TokenVerifier([import_secret(SECRET)], {"x": expected})
    assert strict.verify(token({"x": value}), NOW) == {"x": value}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, "Issuer"),
        ({}, None),
        ({"x": "issuer"}, "Issuer"),
        ({"x": ["Issuer"]}, "Issuer"),
        ({"x": "Issuer"}, ["Issuer", "Other"]),
        ({"x": 1}, True),
        ({"x": True}, 1),
        ({"x": 0}, False),
        ({"x": [1]}, [True]),
        ({"x": ["a", "b"]}, ["b", "a"]),
        ({"x": ["a"]}, ["a", "b"]),
        ({"x": {"a": 1}}, {"a": True}),
        ({"x": {"a": 1, "b": 2}}, {"a": 1}),
        ({"x": "1"}, 1),
        ({"x": None}, False),
    ],
)
def test_a_claim_that_is_missing_or_another_fails(claims: dict[str, Any], expected: Any) -> None:
    strict = TokenVerifier([import_secret(SECRET)], {"x": expected})
    with pytest.raises(TokenError, match="claim 'x' is missing or not what it must be"):
        strict.verify(token(claims), NOW)


def test_nbf_can_be_validated_by_equality_besides() -> None:
    strict = TokenVerifier([import_secret(SECRET)], {"iss": "Issuer", "nbf": 1610078130})
    assert strict.verify(token({"iss": "Issuer", "nbf": 1610078130}), NOW)
    for nbf in (1610078131, LATER):
        with pytest.raises(TokenError):
            strict.verify(token({"iss": "Issuer", "nbf": nbf}), NOW)


# Numbers.

EXACT = [
    "9007199254740993.0",
    "9007199254740992.0",
    "1e-400",
    "2e-400",
    "1E+400",
    "0.1000000000000000055511151231257827",
    "0.1",
    "1.00",
    "-0",
    "-0.0",
    "123456789012345678901234567890",
]


def written(payload: str) -> str:
    return sign_text(payload, KEY, alg="HS256")


@pytest.mark.parametrize("number", EXACT)
def test_a_number_stays_as_it_was_signed(number: str) -> None:
    payload = f'{{"n": [{{"x": {number}}}]}}'
    assert dump_claims(VERIFIER.verify(written(payload), NOW)) == payload


def test_no_two_numbers_become_the_same_viewer() -> None:
    viewers = {
        Viewer.of(VERIFIER.verify(written(f'{{"role": "reader", "n": {number}}}'), NOW))
        for number in EXACT
    }
    assert len(viewers) == len(EXACT)


@pytest.mark.parametrize("number", EXACT)
def test_a_validator_is_compared_with_the_number_that_was_signed(number: str) -> None:
    validators = load_claims(f'{{"n": {number}}}')
    strict = TokenVerifier([import_secret(SECRET)], validators)
    for other in EXACT:
        if load_claims(other) == load_claims(number):
            assert strict.verify(written(f'{{"n": {other}}}'), NOW)
        else:
            with pytest.raises(TokenError, match="claim 'n' is missing"):
                strict.verify(written(f'{{"n": {other}}}'), NOW)


@pytest.mark.parametrize("times", ['"nbf": 1.7e9', '"nbf": 1e-400', '"exp": 1e300', '"exp": 2e9'])
def test_a_time_may_be_any_number(times: str) -> None:
    assert VERIFIER.verify(written(f"{{{times}}}"), NOW)


@pytest.mark.parametrize("times", ['"nbf": 1.9e9', '"nbf": 1e400', '"exp": 1e-400', '"exp": -0'])
def test_a_time_of_any_number_is_obeyed(times: str) -> None:
    with pytest.raises(TokenError, match=r"expired|has not come yet"):
        VERIFIER.verify(written(f"{{{times}}}"), NOW)


def test_a_number_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(TokenError, match="not JSON"):
        VERIFIER.verify(written('{"n": 1e99999999999999999999}'), NOW)


@pytest.mark.parametrize(
    "payload",
    [
        '{"sub": "ann", "sub": "bob"}',
        '{"a": [{"x": 1, "x": 1}]}',
        '{"sub": "ann", "s\\u0075b": "bob"}',
    ],
)
def test_claims_that_name_one_twice_are_refused(payload: str) -> None:
    with pytest.raises(TokenError, match="claims have a member twice"):
        VERIFIER.verify(written(payload), NOW)


@pytest.mark.parametrize("claims", [{"a": ["x\0"]}, {"a\0": 1}, {"a": {"b": {"\0": "\\"}}}])
def test_a_claim_that_json_of_the_database_cannot_have_is_refused(claims: Any) -> None:
    verified = VERIFIER.verify(token({"role": "reader", **claims}), NOW)
    with pytest.raises(RefusedError, match=r"the character U\+0000"):
        Viewer.of(verified)
    assert Viewer.of(verified, ["a", "a\0"]).claims == '{"role": "reader"}'


def test_a_backslash_before_u0000_is_no_such_character() -> None:
    assert Viewer.of(VERIFIER.verify(token({"role": "reader", "a": "\\u0000"}), NOW))


# Any input.


@pytest.mark.slow
@given(st.text() | st.from_regex(r"[\w%-]*\.[\w%-]*\.[\w%-]*", fullmatch=True))
def test_any_text_is_refused_with_a_token_error(text: str) -> None:
    with pytest.raises(TokenError):
        VERIFIER.verify(text, NOW)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "x5c"]), children)
    ),
)


@pytest.mark.slow
@given(_json, _json)
def test_any_header_and_claims_with_a_wrong_signature_are_refused(header: Any, claims: Any) -> None:
    with pytest.raises(TokenError):
        VERIFIER.verify(_signed_by_hand(header, claims, b"another"), NOW)


def test_no_refusal_quotes_the_token() -> None:
    for bad in (GOOD[:-2], forge(GOOD, header={"alg": "leaky"}), make_token(secret="x" * 20)):
        with pytest.raises(TokenError) as caught:
            VERIFIER.verify(bad, NOW)
        for part in bad.split("."):
            assert part not in str(caught.value)


class CountingKey:
    """A key that counts how often it verifies a signature."""

    def __init__(self) -> None:
        self._key = import_secret(SECRET)
        self.kid, self.algorithms = self._key.kid, self._key.algorithms
        self.count = 0

    def verifies(self, signature: Any) -> bool:
        self.count += 1
        return self._key.verifies(signature)


def test_a_token_that_comes_again_is_verified_once_and_its_times_each_time() -> None:
    key = CountingKey()
    verifier = TokenVerifier([cast(VerificationKey, key)])
    claims = {"exp": LATER, "nbf": int(NOW) - 5, "role": "authenticated"}
    good = token(claims)
    for _ in range(3):
        assert verifier.verify(good, NOW) == claims
    with pytest.raises(TokenError, match="has expired"):
        verifier.verify(good, LATER)
    with pytest.raises(TokenError, match="has not come yet"):
        verifier.verify(good, NOW - 10)
    assert key.count == 1
    # A bad one is looked at each time, whatever good one it resembles.
    for _ in range(2):
        with pytest.raises(TokenError, match="signature"):
            verifier.verify(good[:-3] + "AAA", NOW)
    assert key.count == 3


def test_not_all_tokens_are_kept() -> None:
    key = CountingKey()
    verifier = TokenVerifier([cast(VerificationKey, key)])
    several = [token({"exp": LATER, "n": number}) for number in range(501)]
    for each in several:
        verifier.verify(each, NOW)
    # Of all, the one that was not used for the longest time is verified anew; and a long one is.
    for each, count in ((several[-1], 501), (several[0], 502), (several[2], 502)):
        verifier.verify(each, NOW)
        assert key.count == count
    long = token({"exp": LATER, "text": "x" * 4096})
    for _ in range(2):
        verifier.verify(long, NOW)
    assert key.count == 504
