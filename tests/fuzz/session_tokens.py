"""Tokens for sessions: valid ones, and all kinds of others, signed once."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any, Final

from joserfc.jwk import ECKey, Key, OctKey

from realtime_server.auth.keys_and_algorithms import import_jwks, import_secret
from realtime_server.auth.tokens import TokenVerifier
from tests.tokens import SECRET, forge, segment, sign, sign_text

__all__ = ["EPOCH", "GOOD", "OTHER", "VERIFIER", "long_tokens", "make_token", "tokens"]

EPOCH: Final = 1_800_000_000
"""When sessions begin, seconds since 1970."""
LATER: Final = EPOCH + 10**9
KEY: Final = OctKey.import_key(SECRET)
EC: Final = ECKey.import_key(
    {
        "kty": "EC",
        "crv": "P-256",
        "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
)
VERIFIER: Final = TokenVerifier(
    [
        import_secret(SECRET),
        *import_jwks({"keys": [{**EC.as_dict(private=False), "kid": "ec"}]}),
    ]
)
GOOD: Final = sign({"exp": LATER, "role": "authenticated"}, KEY, alg="HS256")
OTHER: Final = sign({"exp": LATER, "role": "authenticated", "sub": "another"}, KEY, alg="HS256")
"""As good as that."""

NUMBERS: Final = [0, -1, 1.5, 10**40, 1e308, EPOCH + 0.5, True, None, "soon", [], {}]
CLAIMS: Final[list[dict[str, Any]]] = [
    {"exp": LATER, "role": "authenticated", "sub": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    {"exp": EPOCH + 30},
    {"exp": EPOCH + 3000, "role": "anon"},
    {"exp": EPOCH - 1},
    {"exp": LATER, "nbf": LATER},
    {},
    *({"exp": number} for number in NUMBERS),
    *({"exp": LATER, "nbf": number} for number in NUMBERS),
    *({"exp": LATER, "role": number} for number in NUMBERS),
    {"exp": LATER, "app_metadata": {"a": [1, 2.5, None] * 50}},
    {"exp": LATER, "\ud800": 1},
    {"exp": LATER, "sub": "\ud800"},
]


def _with(members: str) -> str:
    """Return the claims of a token that is good for long, with other members behind."""
    return f'{{"exp":{LATER},{members}}}'


PAYLOADS: Final = [
    '{"exp":1e400}',
    '{"exp":-0}',
    _with('"exp":1'),
    _with('"n":1e-400,"m":9007199254740993.0'),
    _with('"n":NaN'),
    f'{{"exp":{"9" * 4000}}}',
    f'{{"exp":{"9" * 5000}}}',
    _with(f'"n":{"[" * 900 + "]" * 900}'),
    _with(f'"n":{"[" * 3000 + "]" * 3000}'),
    "[" * 3000,
    '"exp"',
    "null",
    "",
    "\0",
    _with('"a":"' + "\\ud83d\\ude42" * 300 + '"'),
]
PIECES: Final = [".", "..", "=", "%2e", "%", " ", "\n", "A" * 50, "é", "\0", "eyJ"]
LONG: Final = 60_000


@cache
def tokens() -> tuple[str, ...]:
    """Return many tokens of all kinds."""
    header = {"alg": "HS256"}
    found = [GOOD, sign({"exp": LATER}, EC, alg="ES256", kid="ec")]
    found += [sign(claims, KEY, **header) for claims in CLAIMS]
    found += [sign_text(payload, KEY, **header) for payload in PAYLOADS]
    found += [
        sign({"exp": LATER}, KEY, alg="HS512"),
        sign({"exp": LATER}, KEY, **header, typ=None),
        sign({"exp": LATER}, KEY, **header, kid="ec"),
        forge(GOOD, header={"alg": "HS256", "kid": [1], "typ": "JWT"}),
        forge(GOOD, header={"alg": "HS256", "crit": ["exp"], "typ": "JWT"}),
        sign({"exp": LATER}, _other(), **header),
        forge(GOOD, header={"alg": "none", "typ": "JWT"}, signature=b""),
        forge(GOOD, header={"alg": ["HS256"], "typ": "JWT"}),
        forge(GOOD, header={"alg": "ES256", "kid": "ec", "typ": "JWT"}),
        forge(GOOD, header=[1]),
        forge(GOOD, claims={"exp": LATER, "role": "service_role"}),
        forge(GOOD, signature=b"\0" * 32),
        GOOD.replace(".", ""),
        f"{GOOD}.{GOOD}",
        "",
        ".",
        "..",
    ]
    return tuple(found)


@cache
def long_tokens() -> tuple[str, ...]:
    """Return tokens that nearly fill a message of 64 KB, most of them badly signed."""
    header = {"alg": "HS256"}
    bodies = [
        "[" * (LONG // 2),
        '{"a":' * (LONG // 6),
        json.dumps({"exp": LATER, **{str(number): number for number in range(3000)}}),
        json.dumps({"exp": LATER, "a": [[]] * 10_000}),
        _with(f'"n":[{",".join(["1.5"] * 10_000)}]'),
        f'{{"exp":{"9" * 40_000}}}',
        f'{{"exp":1e{"9" * 40_000}}}',
    ]
    signed = [sign_text(body[: LONG * 2 // 3], KEY, **header) for body in bodies]
    heads = [
        f"{segment(head.encode())}.e30.AA"
        for head in ("[" * 30_000, '{"alg":"HS256","kid":"' + "k" * 30_000 + '"}')
    ]
    # What is just below the verifier's own bound on a token's size.
    small = [sign_text(body[:5900], KEY, **header) for body in bodies]
    return (*signed, *heads, *small, "." * LONG, "%41" * (LONG // 3), " " * LONG, "%" * LONG)


def make_token(random: Random) -> Any:
    """Return a token, a good one half of the time, or a mutated one, or none at all."""
    kind = random.random()
    if kind < 0.5:
        return GOOD
    token = random.choice(tokens())
    if kind < 0.9:
        return token
    if kind < 0.93:
        return random.choice(NUMBERS)
    at = random.randrange(len(token) + 1)
    return token[:at] + random.choice(PIECES) + token[at + random.choice((0, 1, 9)) :]


@cache
def _other() -> Key:
    return OctKey.import_key("another secret that is long enough for that")
