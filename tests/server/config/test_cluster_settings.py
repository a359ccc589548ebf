"""ClusterSettings: what the environment says of the log that several servers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from realtime_core import ConfigError
from realtime_server.config import ClusterSettings, ServerConfig, _cluster_contradictions
from realtime_server.config._environment import variable_fields
from realtime_server.config.connection_settings import ConnectionSettings

URL = "nats://nats-1:4222"
SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
CREDENTIALS = f"""\
-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{SEED}
------END USER NKEY SEED------
"""
CLUSTER = {"NATS_URL": URL, "SLOT_NAME": "realtime"}
OWN = [
    field
    for field in attrs.fields(ClusterSettings)
    if field.name not in attrs.fields_dict(ConnectionSettings)
]


def read(environ: dict[str, str]) -> ServerConfig:
    return ServerConfig.from_env({"SECURE_CHANNELS": "false", **environ})


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(environ)
    return caught.value.problems


def test_without_variables_nothing_is_shared() -> None:
    config = read({})
    assert config.nats_url is None
    assert not config.wants_nats_tls


def test_all_servers_are_protected_alike() -> None:
    (problem,) = problems({**CLUSTER, "NATS_URL": "nats://a,tls://b"})
    assert problem.endswith("; use tls:// for all servers, or nats:// for all")


@pytest.mark.parametrize(
    "text", ["nats:/me:hidden@a", "nats://b,nats://me:hidden@a:99999", f"{'x' * 90},me:hidden@a"]
)
def test_a_password_in_a_bad_address_is_not_shown(text: str) -> None:
    assert "NATS_URL is " in problems({**CLUSTER, "NATS_URL": text})[0]
    assert "hidden" not in str(problems({**CLUSTER, "NATS_URL": text}))


def test_secrets_may_be_in_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("nats-password\n")
    environ = {**CLUSTER, "NATS_USER": "realtime", "NATS_PASSWORD_FILE": str(secret)}
    config = read(environ)
    assert config.nats_password == "nats-password"
    assert "nats-password" not in repr(config)
    assert {field.name for field in variable_fields(ClusterSettings) if not field.repr} >= {
        "nats_user",
        "nats_password",
        "nats_credentials",
        "nats_nkey_seed",
    }


# Several values that cannot work together.


def test_the_log_needs_a_slot_that_all_servers_know() -> None:
    (problem,) = problems({"NATS_URL": URL})
    assert problem.startswith("NATS_URL is set without SLOT_NAME: ")


def test_a_temporary_slot_cannot_be_handed_on() -> None:
    (problem,) = problems({**CLUSTER, "TEMPORARY_SLOT": "true"})
    assert problem.startswith("NATS_URL and TEMPORARY_SLOT=true: ")


def test_the_log_has_what_pgoutput_writes() -> None:
    (_, problem) = problems({**CLUSTER, "OUTPUT_PLUGIN": "wal2json"})
    assert problem.startswith("NATS_URL and OUTPUT_PLUGIN=wal2json: ")


def test_several_workers_share_the_log_and_its_journal() -> None:
    several = {**CLUSTER, "WORKERS": "2", "REPLAY_SECRET": "s" * 32, "REPLAY_WINDOW": "1000"}
    config = read(several)
    assert (config.worker_count, config.replays, config.replay_slot) == (2, True, None)
    assert config.shortcomings() == []
    (problem,) = problems({**several, "REPLAY_WAL_MB": "0"})
    assert problem.startswith("WORKERS is 2 and REPLAY_WINDOW is set, ")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster_contradictions, "find_spec", lambda name: None)
    (problem,) = problems(CLUSTER)
    assert problem == (
        "NATS_URL is set, and nats and nkeys cannot be imported; use pip install "
        "'realtime-core[cluster]', or unset NATS_URL"
    )
    assert read({}).nats_url is None


@pytest.mark.parametrize(
    "url", ["nats://me:hidden@a:4222", "nats://token@a", "nats://b,nats://t@a"]
)
def test_an_address_has_no_login_in_it(url: str) -> None:
    (problem,) = problems({**CLUSTER, "NATS_URL": url})
    assert problem.startswith("NATS_URL has a user or a token in it")
    assert "hidden" not in problem


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"NATS_USER": "me"}, "NATS_USER is set without NATS_PASSWORD; set both, or unset"),
        ({"NATS_PASSWORD": "x"}, "NATS_PASSWORD is set without NATS_USER; set both, or unset"),
        (
            {"NATS_TLS_CERT": __file__},
            "NATS_TLS_CERT is set without NATS_TLS_KEY; set both, or unset NATS_TLS_CERT",
        ),
        (
            {"NATS_TLS_KEY": __file__},
            "NATS_TLS_KEY is set without NATS_TLS_CERT; set both, or unset NATS_TLS_KEY",
        ),
        (
            {"NATS_USER": "me", "NATS_PASSWORD": "x", "NATS_NKEY_SEED": SEED},
            "NATS_USER and NATS_NKEY_SEED are different ways to log in, and NATS takes one; unset",
        ),
        (
            {"NATS_CREDENTIALS": CREDENTIALS, "NATS_NKEY_SEED": SEED},
            "NATS_CREDENTIALS and NATS_NKEY_SEED are different ways to log in",
        ),
        (
            {"LOG_ACK_DELAY": "60000", "LOG_MAX_AGE": "60000"},
            "LOG_ACK_DELAY is 60000, and the log keeps a change for 60000 ms only; set LOG_MAX_AGE",
        ),
    ],
)
def test_values_that_contradict_each_other(environ: dict[str, str], expected: str) -> None:
    (problem,) = problems({**CLUSTER, **environ})
    assert problem.startswith(expected)


@pytest.mark.parametrize("field", OWN[1:], ids=lambda field: field.name)
def test_nothing_is_set_in_vain(field: attrs.Attribute[Any]) -> None:
    texts = {
        "nats_credentials": CREDENTIALS,
        "nats_nkey_seed": SEED,
        "cluster_name": "shop",
        "cluster_role": "server",
        "nats_replicas": "3",
        "log_max_bytes": "20000000",
        "log_max_age": "70000",
        "log_ack_delay": "1",
    }
    name = field.name.upper()
    (problem,) = problems({name: texts.get(field.name, __file__)})
    assert problem.startswith("NATS_URL is missing, without which ")
    assert name in problem


# What follows from the values.


def test_the_log_is_named_after_the_slot_unless_it_has_a_name() -> None:
    assert read(CLUSTER).stream_name == "realtime_realtime"
    assert read({**CLUSTER, "CLUSTER_NAME": "shop"}).stream_name == "shop"


@pytest.mark.parametrize(
    ("role", "leads", "serves"),
    [("all", True, True), ("server", False, True), ("reader", True, False)],
)
def test_a_role_says_whether_a_server_leads_and_has_clients(
    role: str, leads: bool, serves: bool
) -> None:
    config = read({**CLUSTER, "CLUSTER_ROLE": role})
    assert (config.may_lead, config.serves_clients) == (leads, serves)


def test_who_serves_no_clients_needs_no_key_and_no_workers() -> None:
    reader = {**CLUSTER, "CLUSTER_ROLE": "reader"}
    without_key = {**reader, "SECURE_CHANNELS": "true"}
    assert not read(without_key).serves_clients
    (problem,) = problems({**without_key, "CLUSTER_ROLE": "server"})
    assert problem.startswith("JWT_SECRET is missing")
    (problem,) = problems({**reader, "WORKERS": "2"})
    assert problem.startswith("WORKERS is 2, and with CLUSTER_ROLE=reader there are no clients")
    (problem,) = problems({"SLOT_NAME": "realtime", "CLUSTER_ROLE": "reader"})
    assert problem.startswith("NATS_URL is missing, without which CLUSTER_ROLE has no effect")


def test_the_second_slot_is_that_of_a_single_server() -> None:
    environ = {"SLOT_NAME": "realtime", "REPLAY_SECRET": "s" * 32}
    assert read(environ).replay_slot == "realtime_replay"
    config = read({**environ, **CLUSTER})
    assert (config.replay_slot, config.replays, config.keeps_journal) == (None, True, True)


def test_a_log_that_is_shorter_than_the_window_is_named() -> None:
    environ = {**CLUSTER, "REPLAY_SECRET": "s" * 32, "REPLAY_WINDOW": "300000"}
    assert read({**environ, "LOG_MAX_AGE": "300000"}).shortcomings() == []
    [said] = read({**environ, "LOG_MAX_AGE": "299000"}).shortcomings()
    assert said.startswith("LOG_MAX_AGE is 299000, and REPLAY_WINDOW 300000: ")
    # Nobody comes back to another server then.
    for off in ("REPLAY_WINDOW", "REPLAY_WAL_MB"):
        assert read({**environ, "LOG_MAX_AGE": "299000", off: "0"}).shortcomings() == []


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"NATS_URL": "tls://a"}, True),
        ({"NATS_TLS_CA": __file__}, True),
        ({"NATS_TLS_CERT": __file__, "NATS_TLS_KEY": __file__}, True),
    ],
)
def test_tls_is_wanted_by_address_or_by_certificates(environ: dict[str, str], wanted: bool) -> None:
    assert read({**CLUSTER, **environ}).wants_nats_tls is wanted
