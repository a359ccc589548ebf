"""ServerConfig: what the environment says, and what is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from realtime_core import ConfigError
from realtime_server.config import (
    ClusterRole,
    ConfigurationFile,
    DatabaseTls,
    EventLoop,
    IdentityKind,
    IpVersion,
    LogFormat,
    LogLevel,
    OutputPlugin,
    RelationRule,
    ReplicationMode,
    RlsDelete,
    ServerConfig,
    ShortSecret,
    Variable,
    WhenFull,
    print_config,
    variables,
)

OPEN = {"SECURE_CHANNELS": "false"}
VARIABLES = {variable.name: variable for variable in variables()}


def problems(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env({**OPEN, **environ})
    return caught.value.problems


# Every variable: its default, a good value, bad values.


@attrs.frozen
class Row:
    """What is expected of a variable.

    Attributes:
        default: a release's.
        text: a good one.
        value: what it means.
        bad: texts that are refused.
        remedy: what is said to all of them.
        with_it: other variables that the good text needs.
    """

    default: Any
    text: str
    value: Any
    bad: tuple[str, ...] = ()
    remedy: str = ""
    with_it: Mapping[str, str] = MappingProxyType({})


def number(default: int | None, *, least: int, most: int | None = None) -> Row:
    bounds = f"of at least {least}" if most is None else f"between {least} and {most}"
    bad = (str(least - 1), "1.5", "1e3", "0x10", "1_000", "१०००", "x", "-5")
    return Row(
        default,
        f" {least + 7} ",
        least + 7,
        bad if most is None else (*bad, str(most + 1)),
        f"use a whole number {bounds}",
    )


def flag(default: bool) -> Row:
    good = "false" if default else "true"
    return Row(default, good, not default, ("0", "1", "no", "on", "flase"), "use true or false")


def free_text(default: str | None) -> Row:
    return Row(default, "it's ä \\ value", "it's ä \\ value")


IP_VERSIONS = "use IPv4 or IPv6"
PUBLICATIONS = 'use a JSON array of names, as in ["supabase_realtime"]'
PRIVATE = {"SECURE_CHANNELS": "true", "JWT_SECRET": "s" * 32, "PRIVATE_CHANNELS": "true"}
EVERYTHING = ConfigurationFile()
CLUSTER = {"NATS_URL": "nats://nats-1:4222", "SLOT_NAME": "realtime"}
NATS_URLS = (
    "use addresses of NATS servers with commas between, as in nats://nats-1:4222,nats://nats-2:4222"
)
CREDENTIALS = f"BEGIN NATS USER JWT\nxyz\nBEGIN USER NKEY SEED\nSU{'A' * 56}\n"
PEM = "no file can be read there; name a PEM file that the server may read"
WHSEC = "whsec_" + "c2VjcmV0c2VjcmV0" * 2

TABLE = {
    "REPLICATION_MODE": Row(
        ReplicationMode.STREAM,
        "STREAM",
        ReplicationMode.STREAM,
        ("stream", " STREAM", "both"),
        "use STREAM or RLS",
    ),
    "OUTPUT_PLUGIN": Row(
        OutputPlugin.PGOUTPUT,
        "pgoutput",
        OutputPlugin.PGOUTPUT,
        ("PGOUTPUT", "test_decoding"),
        "use pgoutput or wal2json",
    ),
    "PUBLICATIONS": Row(
        ("supabase_realtime",),
        '["one", "zwei ÄÖ"]',
        ("one", "zwei ÄÖ"),
        ("shop", "[]", '"shop"', "{}", "null", "[" * 100_000),
        PUBLICATIONS,
    ),
    "SLOT_NAME": Row(
        None,
        "Realtime_1",
        "realtime_1",
        ("my-slot", "a" * 64, "ä", "a b"),
        "use 1 to 63 letters, digits and underscores",
    ),
    "TEMPORARY_SLOT": flag(False),
    "CONFIGURATION_FILE": Row(
        EVERYTHING,
        "<file>",
        ConfigurationFile(realtime=(RelationRule("public", ("INSERT",)),), path="<file>"),
        ("/nonexistent/rules.json",),
        "the file cannot be read (No such file or directory); name a JSON file that can",
    ),
    "MAX_REPLICATION_LAG_MB": number(0, least=0),
    "DB_HOST": free_text("localhost"),
    "DB_PORT": number(5432, least=1, most=65535),
    "DB_NAME": free_text("postgres"),
    "DB_USER": free_text("postgres"),
    "DB_PASSWORD": free_text("postgres"),
    "DB_SSL": Row(
        DatabaseTls.ON,
        "Verify-Full",
        DatabaseTls.VERIFY_FULL,
        ("verify_full", "verify", "verified"),
        "use true, false, verify-ca or verify-full",
    ),
    "DB_SSL_ROOT_CERT": Row(
        None,
        "<file>",
        "<file>",
        ("/nonexistent/root.crt", "/"),
        "no file can be read there; name a file of PEM certificates, or use system for the "
        "operating system's",
        {"DB_SSL": "verify-ca"},
    ),
    "DB_IP_VERSION": Row(IpVersion.IPV4, "ipV6", IpVersion.IPV6, ("6", "any"), IP_VERSIONS),
    "DB_RECONNECT_BACKOFF_MIN": number(100, least=1),
    "DB_RECONNECT_BACKOFF_MAX": attrs.evolve(
        number(120_000, least=1), with_it={"DB_RECONNECT_BACKOFF_MIN": "1"}
    ),
    "PORT": number(4000, least=0, most=65535),
    "REALTIME_IP_VERSION": Row(IpVersion.IPV6, "ipv4", IpVersion.IPV4, ("4", "both"), IP_VERSIONS),
    "ALLOWED_ORIGINS": Row(
        (),
        '["https://App.example", "http://localhost:3000", "http://[::1]:3000"]',
        ("https://app.example", "http://localhost:3000", "http://[::1]:3000"),
        ("https://app.example", "[]", "{}"),
        'use a JSON array of origins, as in ["https://app.example"]',
    ),
    "TRUSTED_PROXIES": Row(
        (),
        '["10.0.0.0/8", "192.0.2.7", "2001:DB8::/32", "::1"]',
        ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128"),
        ("10.0.0.0/8", "[]", "{}", "null"),
        'use a JSON array of addresses and networks, as in ["10.0.0.0/8", "::1"]',
        {"FORWARDED_HEADER": "X-Forwarded-For"},
    ),
    "FORWARDED_HEADER": Row(
        None,
        "X-Forwarded-For",
        "X-Forwarded-For",
        ("X-Forwarded-For:", "X Forwarded For", "ä"),
        "use the name of a header, as X-Forwarded-For",
        {"TRUSTED_PROXIES": '["::1"]'},
    ),
    "WEBSOCKET_COMPRESSION": flag(False),
    "SECURE_CHANNELS": Row(True, "false", False),
    "JWT_SECRET": Row(None, "it's ä \\ value".ljust(32, "."), "it's ä \\ value".ljust(32, ".")),
    "JWT_SECRET_SHORT": Row(
        ShortSecret.REFUSE, "allow", ShortSecret.ALLOW, ("true", "Allow"), "use refuse or allow"
    ),
    "JWT_JWKS": Row(
        None,
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
        ("x", "[]", "{}", '{"keys": []}', '{"keys": {}}', "[" * 100_000),
        'use a JSON Web Key Set, as in {"keys": [{"kty": "RSA", …}]}',
    ),
    "JWT_CLAIM_VALIDATORS": Row(
        {},
        '{"iss": "Issuer", "nbf": 1610078130}',
        {"iss": "Issuer", "nbf": 1610078130},
        ("iss", "[]", '"iss"', "null"),
        'use a JSON object, as in {"iss": "Issuer"}, that names no claim twice',
    ),
    "NATS_URL": Row(
        None,
        "nats://a:4222, nats://[::1]:4223",
        "nats://a:4222,nats://[::1]:4223",
        (
            *("nats-1:4222", "nats://", "nats://a:70000", "nats://a:0", "nats://a,"),
            *("nats://a:4222/shop", "nats://a?b", "redis://a:6379"),
        ),
        NATS_URLS,
        {"SLOT_NAME": "realtime"},
    ),
    "NATS_USER": attrs.evolve(free_text(None), with_it={**CLUSTER, "NATS_PASSWORD": "x"}),
    "NATS_PASSWORD": attrs.evolve(free_text(None), with_it={**CLUSTER, "NATS_USER": "x"}),
    "NATS_CREDENTIALS": Row(
        None,
        CREDENTIALS,
        CREDENTIALS,
        ("SU", "BEGIN NATS USER JWT"),
        "use the text of a .creds file, as nsc generate creds writes it, or name the file in "
        "NATS_CREDENTIALS_FILE",
        CLUSTER,
    ),
    "NATS_NKEY_SEED": Row(
        None,
        f"SU{'A' * 56}\n",
        f"SU{'A' * 56}",
        (f"SU{'A' * 55}", f"UD{'A' * 56}", f"SU{'1' * 56}"),
        "use the seed of a user, which begins with SU, as nk -gen user prints it",
        CLUSTER,
    ),
    "NATS_TLS_CA": Row(None, "<file>", "<file>", ("/nonexistent.pem", "/"), PEM, CLUSTER),
    "NATS_TLS_CERT": Row(
        *(None, "<file>", "<file>", ("/nonexistent.pem", "/"), PEM),
        {**CLUSTER, "NATS_TLS_KEY": __file__},
    ),
    "NATS_TLS_KEY": Row(
        *(None, "<file>", "<file>", ("/nonexistent.pem", "/"), PEM),
        {**CLUSTER, "NATS_TLS_CERT": __file__},
    ),
    "CLUSTER_NAME": Row(
        None,
        "Shop-1_b",
        "Shop-1_b",
        ("shop.one", "a b", "ä", "a" * 101),
        "use 1 to 100 letters, digits, underscores and hyphens",
        CLUSTER,
    ),
    "CLUSTER_ROLE": Row(
        ClusterRole.ALL,
        "server",
        ClusterRole.SERVER,
        ("leader", "ALL"),
        "use all, server or reader",
        CLUSTER,
    ),
    "NATS_REPLICAS": attrs.evolve(number(1, least=1, most=5), text=" 3 ", value=3, with_it=CLUSTER),
    "LOG_MAX_BYTES": attrs.evolve(number(1 << 30, least=1 << 24), with_it=CLUSTER),
    "LOG_MAX_AGE": attrs.evolve(
        number(600_000, least=60_000, most=9_000_000_000_000), with_it=CLUSTER
    ),
    "LOG_ACK_DELAY": attrs.evolve(number(10_000, least=0), with_it=CLUSTER),
    "BROADCAST": flag(True),
    "PRIVATE_CHANNELS": attrs.evolve(flag(True), default=None, text="false", value=False),
    "PRIVATE_ONLY": attrs.evolve(flag(False), with_it=PRIVATE),
    "MAX_DELIVERIES_PER_SECOND": number(100_000, least=1),
    "PRESENCE_INTERVAL": number(100, least=1),
    "MAX_PRESENCE_CALLS_PER_SECOND": number(10, least=1),
    "MAX_PRESENCE_BYTES": number(8192, least=1024),
    "MAX_PRESENCE_MEMBERS": number(10_000, least=1),
    "MAX_PRESENCE_STATE_BYTES": number(None, least=1024),
    "BROADCAST_FROM_DATABASE": flag(False),
    "BROADCAST_MESSAGES": flag(False),
    "MAX_CONNECTIONS": number(16384, least=1),
    "MAX_CHANNELS": number(1000, least=1),
    "MAX_TOKENS": number(50, least=1),
    "MAX_JOINS_PER_SECOND": number(1000, least=1),
    "MAX_CONDITIONS": number(10_000, least=1),
    "MAX_TOTAL_CONDITIONS": number(250_000, least=1),
    "MAX_REGEX_INSTRUCTIONS": number(50_000, least=1),
    "MAX_TOTAL_REGEX_INSTRUCTIONS": number(1_000_000, least=1),
    "MAX_MESSAGES_PER_SECOND": number(2000, least=1),
    "MAX_FRAME_BYTES": number(1_048_576, least=1024),
    "MAX_PAYLOAD_BYTES": number(262_144, least=1024),
    "MAX_HEADER_BYTES": number(65_536, least=1024),
    "MAX_QUERY_BYTES": number(8000, least=1024, most=8000),
    "HANDSHAKE_TIMEOUT": number(10_000, least=1),
    "IDLE_TIMEOUT": number(60_000, least=1),
    "OUTBOX_MAX_BYTES": number(8_388_608, least=1024),
    "OUTBOX_TOTAL_BYTES": number(None, least=1024),
    "OUTBOX_MAX_AGE": number(15_000, least=1),
    "SEND_BUFFER_BYTES": number(131_072, least=0, most=1 << 30),
    "EXPOSE_METRICS": flag(False),
    "INSPECTOR": flag(False),
    "READY_MAX_LAG_MB": number(100, least=0),
    "LOG_LEVEL": Row(
        LogLevel.INFO,
        "warning",
        LogLevel.WARNING,
        ("WARN", "1", "trace"),
        "use DEBUG, INFO, WARNING or ERROR",
    ),
    "LOG_FORMAT": Row(LogFormat.TEXT, "JSON", LogFormat.JSON, ("logfmt",), "use text or json"),
    "EVENT_LOOP": Row(
        EventLoop.ASYNCIO, "uvloop", EventLoop.UVLOOP, ("trio",), "use asyncio or uvloop"
    ),
    "DRAIN_TIMEOUT": number(5000, least=1),
    # Several are not for a temporary slot.
    "WORKERS": attrs.evolve(number(1, least=0, most=256), text=" 1 ", value=1),
    "REPLAY_WINDOW": number(300_000, least=0),
    "REPLAY_MEMORY_MB": number(64, least=1),
    "REPLAY_WAL_MB": number(1024, least=0),
    "REPLAY_SECRET": Row(None, "it's ä \\ value".ljust(32, "."), "it's ä \\ value".ljust(32, ".")),
    "REPLAY_PING_INTERVAL": number(1000, least=1),
    "REPLAY_IDENTITY": Row(
        tuple(IdentityKind),
        '["address", "session"]',
        (IdentityKind.SESSION, IdentityKind.ADDRESS),
        ("session", "{}", "[]"),
        'use a JSON array of names, as in ["session", "claims"]',
    ),
    "REPLAY_CLAIMS": Row(
        ("session_id", "sub"),
        '["email"]',
        ("email",),
        ("email", "{}", '"email"'),
        'use a JSON array of names, as in ["session_id"]',
    ),
    "REPLAY_MAX_SESSIONS": number(100_000, least=1),
    "REPLICATION_POLL_INTERVAL": number(0, least=0),
    "SUBSCRIPTION_SYNC_INTERVAL": number(60_000, least=1),
    "MAX_CHANGES": number(100, least=1),
    "MAX_RECORD_BYTES": number(1_048_576, least=1),
    "RLS_STRICT": flag(False),
    "RLS_DELETE": Row(
        RlsDelete.KEY, "policy", RlsDelete.POLICY, ("true", "full"), "use key or policy"
    ),
    "RLS_CHECK_TIMEOUT": number(1000, least=1),
    "RLS_WAITING_BYTES": number(None, least=1024),
    "RLS_IGNORED_CLAIMS": Row(
        (),
        '["iat", "session_id"]',
        ("iat", "session_id"),
        ("iat", "{}", '"iat"'),
        'use a JSON array of names, as in ["iat"]',
    ),
    "WEBHOOK_SLOT_NAME": Row(
        None,
        "Hooks_1",
        "hooks_1",
        ("a-b", "ä", "x" * 64),
        "use 1 to 63 letters, digits and underscores",
    ),
    "WEBHOOK_HEADERS": Row(
        (),
        "x-one=1=1:x-two=",
        (("x-one", "1=1"), ("x-two", "")),
        ("x-one", "=1", "a b=1", "a=1:", "a=1\n"),
        "use name=value, several with colons between: a=1:b=2",
    ),
    "WEBHOOK_SECRET": Row(
        (),
        f"{WHSEC} {WHSEC}",
        (WHSEC, WHSEC),
        ("secret", WHSEC[6:], "whsec_", f"{WHSEC[:-1]}!", "whsec_YWJj", f"whsec_{'YWJj' * 22}"),
        "use whsec_ and base64 of 24 to 64 random bytes, as python3 -c 'import base64, os; "
        'print("whsec_" + base64.b64encode(os.urandom(32)).decode())\' makes one',
    ),
    "WEBHOOK_TIMEOUT": number(5000, least=1),
    "WEBHOOK_MAX_ATTEMPTS": number(5, least=0),
    "WEBHOOK_BACKOFF_MIN": number(1000, least=1),
    "WEBHOOK_BACKOFF_MAX": attrs.evolve(
        number(60_000, least=1), with_it={"WEBHOOK_BACKOFF_MIN": "1"}
    ),
    "WEBHOOK_RETRY_AFTER_MAX": number(3_600_000, least=1),
    "WEBHOOK_MAX_BYTES": number(8_388_608, least=1024),
    "WEBHOOK_WAITING_BYTES": number(33_554_432, least=1024),
    "WEBHOOK_WHEN_FULL": Row(
        WhenFull.HOLD, "drop", WhenFull.DROP, ("HOLD", "true"), "use hold or drop"
    ),
    "WEBHOOK_DEAD_LETTERS": Row(
        None,
        "dead.jsonl",
        "dead.jsonl",
        ("/", "/nonexistent/dead.jsonl"),
        "name a file in a directory that exists",
    ),
    "WEBHOOK_DEAD_LETTERS_MAX_MB": number(1000, least=0),
}


def test_the_table_has_every_variable() -> None:
    assert list(TABLE) == list(VARIABLES)


def of(config: ServerConfig, name: str) -> Any:
    return getattr(config, name.lower())


@pytest.fixture
def rules(tmp_path: Path) -> str:
    """A file that both is a configuration and can be read where certificates are expected."""
    path = tmp_path / "rules.json"
    path.write_text('{"realtime": [{"relation": "public", "events": ["INSERT"]}]}')
    return str(path)


@pytest.mark.parametrize("name", TABLE)
def test_unset_or_empty_it_has_its_default(name: str) -> None:
    default = TABLE[name].default
    assert attrs.fields_dict(ServerConfig)[name.lower()].default == default
    if name != "SECURE_CHANNELS":
        assert of(ServerConfig.from_env(OPEN), name) == default
        assert of(ServerConfig.from_env({**OPEN, name: ""}), name) == default


@pytest.mark.parametrize("name", TABLE)
def test_a_good_value_is_understood(name: str, rules: str) -> None:
    row = TABLE[name]
    environ = {**OPEN, **row.with_it, name: row.text.replace("<file>", rules)}
    expected = row.value
    if expected == "<file>":
        expected = rules
    elif isinstance(expected, ConfigurationFile):
        expected = attrs.evolve(expected, path=rules)
    assert of(ServerConfig.from_env(environ), name) == expected


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, row in TABLE.items() for text in row.bad]
)
def test_a_bad_value_is_named_with_its_remedy(name: str, text: str) -> None:
    row = TABLE[name]
    (problem,) = problems(**row.with_it, **{name: text})
    shown = repr(text if len(text) <= 100 else f"{text[:100]}…")
    if VARIABLES[name].secret:
        shown = "***"
    assert problem == f"{name} is {shown}; {row.remedy}"


@pytest.mark.parametrize("name", TABLE)
def test_bytes_that_are_not_utf_8_are_named(name: str) -> None:
    assert f"{name} is not valid UTF-8; set it again in a UTF-8 terminal or file" in problems(
        **{name: os.fsdecode(b"caf\xe9")}
    )


@pytest.mark.parametrize("text", ["true", "TRUE", "yes", "1", "0", "no", "anything"])
def test_whatever_is_not_false_protects(text: str) -> None:
    environ = {"DB_SSL": text, "SECURE_CHANNELS": text, "JWT_SECRET": "secret" * 6}
    config = ServerConfig.from_env(environ)
    assert (config.db_ssl, config.secure_channels) == (DatabaseTls.ON, True)


@pytest.mark.parametrize(
    ("text", "value"), [("false", False), (" FALSE ", False), ("True", True), (" TRUE", True)]
)
def test_true_and_false_are_so_in_any_case(text: str, value: bool) -> None:
    config = ServerConfig.from_env({"DB_SSL": text, "TEMPORARY_SLOT": text, **OPEN})
    assert config.temporary_slot is value
    assert config.db_ssl is (DatabaseTls.ON if value else DatabaseTls.OFF)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 1, None])
def test_something_that_is_no_name_is_named(name: object) -> None:
    text = json.dumps(["good", name])
    assert problems(PUBLICATIONS=text) == (
        f"PUBLICATIONS is {text!r}; {name!r} in it is no name: {PUBLICATIONS}",
    )


def test_a_kind_that_does_not_exist_is_named() -> None:
    text = '["session", "cookie"]'
    assert problems(REPLAY_IDENTITY=text) == (
        f"REPLAY_IDENTITY is {text!r}; 'cookie' in it is none of session, claims, address",
    )


@pytest.mark.parametrize(
    "origin", ["app.example", "https://", "https://a.b/", "//a.b", "http://[", 1]
)
def test_something_that_is_no_origin_is_named(origin: object) -> None:
    (problem,) = problems(ALLOWED_ORIGINS=json.dumps([origin]))
    assert f"{origin!r} in it is no origin: use a JSON array of origins" in problem


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "proxy", "", 1, None])
def test_something_that_is_no_network_is_named(network: object) -> None:
    (problem,) = problems(TRUSTED_PROXIES=json.dumps(["::1", network]), FORWARDED_HEADER="A")
    assert f"{network!r} in it is no network" in problem


@pytest.mark.parametrize("key", ["x", {}, {"kty": 1}])
def test_a_key_without_a_kty_is_named_and_not_shown(key: object) -> None:
    (problem,) = problems(JWT_JWKS=json.dumps({"keys": [key]}))
    assert problem.startswith("JWT_JWKS is ***; each of its keys needs a kty: use a JSON Web Key")


# Unset variables as a whole.


def test_dev_changes_six_defaults_and_listens_on_loopback() -> None:
    assert ServerConfig.from_env({}, dev=True) == ServerConfig(
        db_ssl=DatabaseTls.OFF,
        secure_channels=False,
        expose_metrics=True,
        inspector=True,
        jwt_secret_short=ShortSecret.ALLOW,
        loopback=True,
    )


def test_the_environment_wins_over_the_dev_defaults() -> None:
    environ = {
        "DB_SSL": "true",
        "EXPOSE_METRICS": "false",
        "INSPECTOR": "false",
        "JWT_SECRET_SHORT": "refuse",
    }
    config = ServerConfig.from_env(environ, dev=True)
    assert config == ServerConfig(secure_channels=False, loopback=True)


@pytest.mark.parametrize("name", ["loopback", "jwt_jwks_file"])
def test_what_is_no_variable_is_not_read_from_one(name: str) -> None:
    environ = {name.upper(): "true", name: "true", **OPEN}
    if name == "jwt_jwks_file":
        environ = {name: "true", **OPEN}
    assert ServerConfig.from_env(environ) == ServerConfig.from_env(OPEN)


# Secrets.

SECRETS = sorted(name for name, variable in VARIABLES.items() if variable.secret)


def test_these_are_secret() -> None:
    assert SECRETS == [
        "DB_PASSWORD",
        "JWT_JWKS",
        "JWT_SECRET",
        "NATS_CREDENTIALS",
        "NATS_NKEY_SEED",
        "NATS_PASSWORD",
        "NATS_USER",
        "REPLAY_SECRET",
        "WEBHOOK_HEADERS",
        "WEBHOOK_SECRET",
    ]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_be_read_from_a_file(name: str, tmp_path: Path) -> None:
    row = TABLE[name]
    path = tmp_path / "secret"
    path.write_bytes(row.text.rstrip().encode() + b"\r\n")
    environ = {f"{name}_FILE": str(path), **row.with_it, **OPEN}
    value = row.value.rstrip() if isinstance(row.value, str) else row.value
    assert of(ServerConfig.from_env(environ), name) == value


def test_the_key_sets_file_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(TABLE["JWT_JWKS"].text)
    config = ServerConfig.from_env({"JWT_JWKS_FILE": str(path), **OPEN})
    assert config.jwt_jwks_file == str(path)
    inline = ServerConfig.from_env({"JWT_JWKS": TABLE["JWT_JWKS"].text, **OPEN})
    assert inline.jwt_jwks_file is None


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_and_its_file_together_are_a_problem(name: str) -> None:
    assert problems(**{name: "a=b", f"{name}_FILE": "/nonexistent"}) == (
        f"{name} and {name}_FILE are both set; unset one of them",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            None,
            ", which cannot be read (No such file or directory); name a file that holds JWT_SECRET "
            "and that the server may read",
        ),
        (b"caf\xe9", ", which is not valid UTF-8; write JWT_SECRET into it as text"),
        (b"\n", ", a file that is empty; write JWT_SECRET into it"),
        (b"x" * (1024 * 1024 + 1), ", a file that is longer than 1 MiB; write JWT_SECRET into it"),
    ],
)
def test_a_secrets_file_that_will_not_do(
    content: bytes | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    if content is not None:
        path.write_bytes(content)
    shown = str(path) if len(str(path)) <= 100 else f"{str(path)[:100]}…"
    assert problems(JWT_SECRET_FILE=str(path)) == (f"JWT_SECRET_FILE is {shown!r}{problem}",)


def test_a_bad_secret_from_a_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("hush")
    assert problems(JWT_JWKS_FILE=str(path)) == (
        "JWT_JWKS (read from JWT_JWKS_FILE) is ***; use a JSON Web Key Set, as in "
        '{"keys": [{"kty": "RSA", …}]}',
    )


def test_a_nul_in_a_secrets_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"hu\0sh")
    assert problems(DB_PASSWORD_FILE=str(path)) == (
        "DB_PASSWORD (read from DB_PASSWORD_FILE) is ***; use text without a NUL character",
    )


def test_no_secret_is_in_the_repr() -> None:
    for name in SECRETS:
        row = TABLE[name]
        shown = repr(ServerConfig.from_env({**OPEN, **row.with_it, name: row.text}))
        for text in ("it's ä", "c2VjcmV0", "x-one", "SUAAA", "USER JWT"):
            assert text not in shown


# What does not go together.


def test_stream_mode_reads_no_wal2json() -> None:
    assert problems(OUTPUT_PLUGIN="wal2json") == (
        "OUTPUT_PLUGIN=wal2json with REPLICATION_MODE=STREAM would show every table to everybody, "
        "as wal2json knows no publications; unset OUTPUT_PLUGIN, or set REPLICATION_MODE=RLS, "
        "which checks each change",
    )
    config = ServerConfig.from_env(
        {"OUTPUT_PLUGIN": "wal2json", "REPLICATION_MODE": "RLS", "JWT_SECRET": "x" * 32}
    )
    assert config.output_plugin is OutputPlugin.WAL2JSON


def test_rls_mode_needs_tokens_and_takes_several_publications() -> None:
    assert problems(REPLICATION_MODE="RLS", PUBLICATIONS='["a", "b"]') == (
        "SECURE_CHANNELS=false with REPLICATION_MODE=RLS would show every row to everybody; set "
        "SECURE_CHANNELS=true and JWT_SECRET",
    )


@pytest.mark.parametrize("environ", [{}, {"SECURE_CHANNELS": "true"}, {"JWT_SECRET": ""}])
def test_secure_channels_need_a_key(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env(environ)
    assert caught.value.problems == (
        "JWT_SECRET is missing: SECURE_CHANNELS=true (the default) needs it or JWT_JWKS; set "
        "SECURE_CHANNELS=false where every client may see every change",
    )


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWT_JWKS"])
def test_either_key_will_do(name: str) -> None:
    assert ServerConfig.from_env({name: TABLE[name].text}).secure_channels


@pytest.mark.parametrize("secret", ["x", "x" * 31, "é" * 15])
def test_a_secret_that_can_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env({"JWT_SECRET": secret})
    [problem] = caught.value.problems
    assert problem == (
        "JWT_SECRET is shorter than 32 bytes: anybody who has a token can compute it and sign "
        "others; make one with python3 -c 'import secrets; print(secrets.token_urlsafe(32))', or "
        "set JWT_SECRET_SHORT=allow to keep it"
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"JWT_SECRET": "é" * 16},
        {"JWT_SECRET": "x", "JWT_SECRET_SHORT": "allow"},
        {"JWT_SECRET": "x", "SECURE_CHANNELS": "false"},
    ],
)
def test_a_secret_is_long_enough_or_does_not_matter(environ: dict[str, str]) -> None:
    assert ServerConfig.from_env(environ).jwt_secret == environ["JWT_SECRET"]


def test_a_header_and_the_proxies_that_write_it_go_together() -> None:
    assert problems(FORWARDED_HEADER="X-Real-IP") == (
        "FORWARDED_HEADER is set, but not whom it is believed; set TRUSTED_PROXIES to the "
        'addresses of your proxies, as ["10.0.0.0/8"]',
    )
    assert problems(TRUSTED_PROXIES='["10.0.0.0/8"]') == (
        "TRUSTED_PROXIES is set, but not in which header they name the client's address; set "
        "FORWARDED_HEADER to what they write, as X-Forwarded-For",
    )


def test_any_secret_will_do_for_development() -> None:
    assert ServerConfig.from_env({"SECURE_CHANNELS": "true", "JWT_SECRET": "x"}, dev=True)


@pytest.mark.parametrize("text", ["", "true", "false"])
def test_a_root_certificate_that_nothing_is_checked_against(text: str) -> None:
    assert problems(DB_SSL_ROOT_CERT="system", DB_SSL=text) == (
        "DB_SSL_ROOT_CERT is set, but nothing is checked against it; set DB_SSL=verify-full, "
        "or unset DB_SSL_ROOT_CERT",
    )


def test_the_systems_certificates_need_the_name_checked() -> None:
    assert problems(DB_SSL_ROOT_CERT="system", DB_SSL="verify-ca") == (
        "DB_SSL_ROOT_CERT=system needs the host's name checked, too; set DB_SSL=verify-full",
    )


def test_backoff_bounds_in_the_wrong_order_are_named() -> None:
    assert problems(DB_RECONNECT_BACKOFF_MIN="200", DB_RECONNECT_BACKOFF_MAX="100") == (
        "DB_RECONNECT_BACKOFF_MIN is 200, above DB_RECONNECT_BACKOFF_MAX, 100; swap them",
    )


def test_every_bad_value_is_reported_at_once_in_the_variables_order() -> None:
    environ = {
        name: os.fsdecode(b"\xff") if not row.bad else row.bad[0] for name, row in TABLE.items()
    }
    environ["JWT_SECRET_FILE"] = "/nonexistent"
    found = problems(**environ)
    assert [problem.split()[0] for problem in found] == list(TABLE)


def test_bad_values_and_contradictions_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig.from_env({"PORT": "x"})
    assert [problem.split()[0] for problem in caught.value.problems] == ["PORT", "JWT_SECRET"]


def test_a_bad_value_makes_no_second_problem() -> None:
    found = problems(
        DB_SSL="verify-x",
        DB_SSL_ROOT_CERT="system",
        DB_RECONNECT_BACKOFF_MIN="x",
        DB_RECONNECT_BACKOFF_MAX="5",
    )
    assert [problem.split()[0] for problem in found] == ["DB_SSL", "DB_RECONNECT_BACKOFF_MIN"]


def test_private_channels_need_tokens_and_rooms() -> None:
    (problem,) = problems(PRIVATE_CHANNELS="true")
    assert problem.startswith("PRIVATE_CHANNELS=true with SECURE_CHANNELS=false: ")
    for more in ({"PRIVATE_CHANNELS": "false"}, {"BROADCAST": "false"}):
        (problem,) = problems(**{**PRIVATE, "PRIVATE_ONLY": "true", **more})
        assert problem.startswith("PRIVATE_ONLY=true without private channels refuses every join")


def test_private_channels_are_on_in_rls_mode_unless_they_are_turned_off() -> None:
    secure = {"SECURE_CHANNELS": "true", "JWT_SECRET": "s" * 32}
    rls = {**secure, "REPLICATION_MODE": "RLS"}
    assert ServerConfig.from_env(rls).has_private_channels
    assert not ServerConfig.from_env({**rls, "PRIVATE_CHANNELS": "false"}).has_private_channels
    assert not ServerConfig.from_env(secure).has_private_channels
    assert ServerConfig.from_env(PRIVATE).has_private_channels


# What works, and is probably not what was meant.


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("JWT_SECERT", "JWT_SECRET"),
        ("JWT_SECERT_FILE", "JWT_SECRET_FILE"),
        ("DBHOST", "DB_HOST"),
        ("db_host", "DB_HOST"),
        ("PUBLICATION", "PUBLICATIONS"),
        ("MAX_REPLICATION_LAG_BM", "MAX_REPLICATION_LAG_MB"),
    ],
)
def test_a_near_miss_is_named_with_the_likely_variable(name: str, likely: str) -> None:
    assert ServerConfig.near_misses({name: "x"}) == [
        f"{name} is no variable of this server; did you mean {likely}?"
    ]


def test_an_empty_variable_does_not_hide_a_near_miss() -> None:
    assert len(ServerConfig.near_misses({"SLOTNAME": "x", "SLOT_NAME": ""})) == 1
    assert ServerConfig.near_misses({"SLOTNAME": "x", "SLOT_NAME": "y"}) == []


@pytest.mark.parametrize("name", ["DB_SSL_MODE", "DB_SSLMODE", "db_ssl_ca"])
@pytest.mark.parametrize("more", [{}, {"DB_SSL": "true"}])
def test_what_the_database_was_to_be_connected_by_is_not_overlooked(
    name: str, more: dict[str, str]
) -> None:
    assert ServerConfig.near_misses({name: "verify-full", **more}) == [
        f"{name} is no variable of this server, and has no effect; DB_SSL alone says how the "
        "database's connection is protected, as DB_SSL=verify-full, and DB_SSL_ROOT_CERT by whom"
    ]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("NATS_SERVERS", "NATS_URL has the addresses of the NATS servers"),
        ("NATS_CREDS", "NATS_CREDENTIALS, NATS_NKEY_SEED, or NATS_USER and NATS_PASSWORD log in"),
        ("NATS_CERT", "NATS_TLS_CA, NATS_TLS_CERT and NATS_TLS_KEY name the files"),
    ],
)
def test_what_programs_of_nats_are_told_by_is_not_overlooked(name: str, instead: str) -> None:
    assert ServerConfig.near_misses({name: "x"}) == [
        f"{name} is no variable of this server, and has no effect; {instead}"
    ]


# What machines, shells and containers set.
COMMON = (
    *(
        "PATH",
        "HOME",
        "PWD",
        "HOSTNAME",
        "LANG",
        "TERM",
        "USER",
        "SHLVL",
        "_",
        "SSH_TTY",
        "LOGNAME",
    ),
    *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "DATABASE_URL", "KUBERNETES_PORT"),
    *("DB_PORT_5432_TCP", "POSTGRES_PASSWORD", "POSTGRES_USER"),
    *("NATS_PORT", "NATS_SERVICE_HOST", "NATS_PORT_4222_TCP_ADDR", "NATS_VERSION"),
)


@pytest.mark.parametrize(
    "environ",
    [
        {"JWT_SECERT": ""},
        {"PUBLICATION": "x", "PUBLICATIONS": "y"},
        dict.fromkeys(TABLE, "x"),
        {"JWT_SECRET_FILE": "/x"},
        dict.fromkeys(COMMON, "x"),
    ],
)
def test_these_are_no_near_misses(environ: dict[str, str]) -> None:
    assert ServerConfig.near_misses(environ) == []


# Webhooks.


def with_webhook(tmp_path: Path, **environ: str) -> dict[str, str]:
    path = tmp_path / "config.json"
    path.write_text('{"webhooks": [{"config": {"endpoint": "https://example.org"}}]}')
    return {"CONFIGURATION_FILE": str(path), **OPEN, **environ}


def test_what_webhooks_may_lose_is_said(tmp_path: Path) -> None:
    slot = (
        "webhooks have a temporary slot: what is committed while the server is down is not sent; "
        "set WEBHOOK_SLOT_NAME"
    )
    letters = (
        "webhooks have no dead letters: a request that is given up is lost; set "
        "WEBHOOK_DEAD_LETTERS"
    )

    def said(**environ: str) -> list[str]:
        return ServerConfig.from_env(with_webhook(tmp_path, **environ)).shortcomings()

    assert said() == [slot, letters]
    assert said(WEBHOOK_DEAD_LETTERS=str(tmp_path / "dead")) == [slot]
    assert said(WEBHOOK_SLOT_NAME="hooks") == [letters]
    assert said(SLOT_NAME="a", TEMPORARY_SLOT="true") == [slot, letters]
    assert ServerConfig.from_env(OPEN).shortcomings() == []


def test_replay_without_a_secret_keeps_no_journal_and_says_so() -> None:
    said = (
        "replay has no secret, so it does not outlive the server: whoever may run SQL could forge "
        "its journal; set REPLAY_SECRET, the same for all servers of the database, or "
        "REPLAY_WAL_MB=0"
    )

    def kept(**environ: str) -> tuple[str | None, list[str]]:
        environ = {**OPEN, "SLOT_NAME": "shop", "REPLAY_WAL_MB": "1024", **environ}
        config = ServerConfig.from_env(environ)
        return config.replay_slot, config.shortcomings()

    # Everybody knows the default of DB_PASSWORD.
    assert kept() == (None, [said])
    assert kept(DB_PASSWORD="postgres") == (None, [said])
    for name in ("DB_PASSWORD", "JWT_SECRET", "REPLAY_SECRET"):
        assert kept(**{name: "s" * 32}) == ("shop_replay", [])
    assert kept(REPLAY_WAL_MB="0") == (None, [])
    assert kept(REPLAY_WINDOW="0") == (None, [])
    assert kept(TEMPORARY_SLOT="true") == (None, [])


def test_workers_need_a_permanent_slot_to_replay_and_say_so() -> None:
    several = {**OPEN, "WORKERS": "2", "REPLAY_SECRET": "s" * 32}
    [said] = ServerConfig.from_env(several).shortcomings()
    assert said.startswith("with WORKERS=2 nothing is replayed")
    assert not ServerConfig.from_env(several).replays
    with_slot = ServerConfig.from_env({**several, "SLOT_NAME": "shop"})
    assert with_slot.replays
    assert with_slot.shortcomings() == []
    assert ServerConfig.from_env({**several, "REPLAY_WINDOW": "0"}).shortcomings() == []
    [problem] = problems(WORKERS="2", REPLAY_WINDOW="1000")
    assert problem.startswith("WORKERS is 2 and REPLAY_WINDOW is set")
    # With a slot, or with one process, there is no problem.
    ServerConfig.from_env({**several, "REPLAY_WINDOW": "1000", "SLOT_NAME": "a"})
    ServerConfig.from_env({**OPEN, "WORKERS": "1", "REPLAY_WINDOW": "1000"})


def test_workers_get_what_pgoutput_writes() -> None:
    rls = {"REPLICATION_MODE": "RLS", "SECURE_CHANNELS": "true", "JWT_SECRET": "s" * 32}
    assert problems(WORKERS="2", OUTPUT_PLUGIN="wal2json", **rls) == (
        "WORKERS and OUTPUT_PLUGIN=wal2json: workers get what pgoutput writes; set WORKERS=1, or "
        "unset OUTPUT_PLUGIN",
    )


def test_workers_are_refused_where_the_system_does_not_spread_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("socket.SO_REUSEPORT")
    [problem] = problems(WORKERS="2")
    assert "does not spread connections over several processes on one port" in problem
    ServerConfig.from_env({**OPEN, "WORKERS": "1"})


def test_no_workers_are_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 2, 3})
    assert ServerConfig.from_env({**OPEN, "WORKERS": "0"}).worker_count == 3
    assert ServerConfig.from_env({**OPEN, "WORKERS": "5"}).worker_count == 5
    assert ServerConfig.from_env(OPEN).worker_count == 1


def test_a_short_secret_of_replay_is_refused() -> None:
    assert problems(REPLAY_SECRET="short") == (
        "REPLAY_SECRET is shorter than 32 bytes; make one with python3 -c 'import secrets; "
        "print(secrets.token_urlsafe(32))', or unset it",
    )


def test_webhooks_have_a_slot_beside_the_servers() -> None:
    def slot(**environ: str) -> str | None:
        return ServerConfig.from_env({**OPEN, **environ}).webhook_slot

    assert slot() is None
    assert slot(SLOT_NAME="Shop") == "shop_webhooks"
    assert slot(SLOT_NAME="shop", TEMPORARY_SLOT="true") is None
    assert slot(SLOT_NAME="shop", WEBHOOK_SLOT_NAME="Hooks") == "hooks"
    assert slot(SLOT_NAME="s", TEMPORARY_SLOT="true", WEBHOOK_SLOT_NAME="hooks") == "hooks"


def test_a_slot_of_the_webhooks_that_cannot_be_is_named(tmp_path: Path) -> None:
    assert problems(**with_webhook(tmp_path, SLOT_NAME="a" * 55)) == (
        "SLOT_NAME with _webhooks behind it is longer than 63 characters; set WEBHOOK_SLOT_NAME",
    )
    assert problems(**with_webhook(tmp_path, SLOT_NAME="a", WEBHOOK_SLOT_NAME="A")) == (
        "WEBHOOK_SLOT_NAME and SLOT_NAME are the same, and one slot serves one reader; "
        "set another WEBHOOK_SLOT_NAME, or unset it",
    )
    # Without webhooks there is no such slot.
    ServerConfig.from_env({**OPEN, "SLOT_NAME": "a" * 55})


def test_pauses_of_webhooks_in_the_wrong_order_are_named() -> None:
    assert problems(WEBHOOK_BACKOFF_MIN="200", WEBHOOK_BACKOFF_MAX="100") == (
        "WEBHOOK_BACKOFF_MIN is 200, above WEBHOOK_BACKOFF_MAX, 100; swap them",
    )


@pytest.mark.parametrize(
    "name", ["Content-Type", "webhook-signature", "X-Realtime-Position", "IDEMPOTENCY-KEY", "Host"]
)
def test_headers_of_the_servers_own_are_refused(name: str) -> None:
    assert problems(WEBHOOK_HEADERS=f"x=1:{name}=2") == (
        f"WEBHOOK_HEADERS is ***; use another name than {name}, which the server sets itself",
    )


# Variables as data.


def test_a_configuration_is_printed_as_it_can_be_read_and_without_secrets(rules: str) -> None:
    # What cannot be beside NATS_URL, and beside NATS_USER.
    left_out = {"TEMPORARY_SLOT", "WORKERS", "NATS_CREDENTIALS", "NATS_NKEY_SEED"}
    environ = {
        name: row.text.replace("<file>", rules)
        for name, row in TABLE.items()
        if name not in left_out
    }
    # What those of private channels and broadcast need, which are off there.
    environ["PRIVATE_ONLY"] = "false"
    secrets = set(SECRETS) - left_out
    config = ServerConfig.from_env(environ)
    printed = dict(line.split("=", 1) for line in print_config(config))
    assert list(printed) == list(TABLE)
    assert {name for name, text in printed.items() if text == "***"} == secrets
    assert ServerConfig.from_env({**printed, **{name: environ[name] for name in secrets}}) == config


def test_defaults_are_printed_too_and_what_is_unset_is_empty() -> None:
    printed = list(print_config(ServerConfig.from_env({}, dev=True)))
    for line in ("DB_PASSWORD=***", "DB_SSL=false", "SLOT_NAME=", "JWT_SECRET=", "PORT=4000"):
        assert line in printed
    assert 'PUBLICATIONS=["supabase_realtime"]' in printed


def test_a_variable_knows_all_that_the_documentation_says() -> None:
    assert VARIABLES["DB_SSL"] == Variable(
        name="DB_SSL",
        section="The database",
        default="true",
        dev="false",
        form="`true`, `false`, `verify-ca`, `verify-full`; anything else is `true`",
        meaning="encrypt the connection: `true` accepts any certificate, `verify-ca` one that a "
        "known authority has signed, `verify-full` one that is for the host in `DB_HOST` besides",
        secret=False,
    )
