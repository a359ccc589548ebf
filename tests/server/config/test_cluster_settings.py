"""ClusterSettings: what the environment says of the log that several servers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from realtime_server.config import ClusterRole, ClusterSettings
from realtime_server.config._cluster_contradictions import cluster_contradictions
from realtime_server.config._environment import structure, variable_fields

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
OWN = [field for field in attrs.fields(ClusterSettings) if not field.inherited]


def read(environ: dict[str, str]) -> tuple[ClusterSettings, list[str]]:
    """Return the settings, and every problem with them."""
    values, problems = structure(environ, ClusterSettings)
    config = ClusterSettings(**values)
    return config, [*problems.values(), *(text for _, text in cluster_contradictions(config))]


def problems(**environ: str) -> list[str]:
    return read({**CLUSTER, **environ})[1]


def test_without_variables_nothing_is_shared() -> None:
    config, found = read({})
    assert found == []
    assert config.nats_url is None
    assert {field.name: getattr(config, field.name) for field in OWN} == {
        "nats_url": None,
        "nats_user": None,
        "nats_password": None,
        "nats_credentials": None,
        "nats_nkey_seed": None,
        "nats_tls_ca": None,
        "nats_tls_cert": None,
        "nats_tls_key": None,
        "cluster_name": None,
        "cluster_role": ClusterRole.ALL,
        "nats_replicas": 1,
        "log_max_bytes": 1 << 30,
        "log_max_age": 600_000,
        "log_ack_delay": 10_000,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NATS_URL", "nats://a:4222, nats://[::1]:4223", "nats://a:4222,nats://[::1]:4223"),
        ("NATS_URL", "tls://nats.example", "tls://nats.example"),
        ("NATS_CREDENTIALS", CREDENTIALS, CREDENTIALS),
        ("NATS_NKEY_SEED", f"{SEED}\n", SEED),
        ("NATS_TLS_CA", __file__, __file__),
        ("CLUSTER_NAME", "Shop-1_b", "Shop-1_b"),
        ("CLUSTER_ROLE", "server", ClusterRole.SERVER),
        ("NATS_REPLICAS", "3", 3),
        ("LOG_MAX_BYTES", "16777216", 1 << 24),
        ("LOG_MAX_AGE", "60000", 60_000),
        ("LOG_ACK_DELAY", "0", 0),
    ],
)
def test_a_good_value_is_understood(name: str, text: str, value: Any) -> None:
    config, found = read({**CLUSTER, name: text})
    assert (getattr(config, name.lower()), found) == (value, [])


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("NATS_URL", "nats-1:4222", "use addresses of NATS servers"),
        ("NATS_URL", "nats://", "use addresses of NATS servers"),
        ("NATS_URL", "nats://a:70000", "use addresses of NATS servers"),
        ("NATS_URL", "nats://a:0", "use addresses of NATS servers"),
        ("NATS_URL", "nats://a,", "use addresses of NATS servers"),
        ("NATS_URL", "nats://a:4222/shop", "use addresses of NATS servers"),
        ("NATS_URL", "redis://a:6379", "use addresses of NATS servers"),
        ("NATS_URL", "nats://a,tls://b", "use tls:// for all servers, or nats:// for all"),
        ("NATS_CREDENTIALS", SEED, "use the text of a .creds file"),
        ("NATS_NKEY_SEED", SEED[:-1], "use the seed of a user, which begins with SU"),
        ("NATS_NKEY_SEED", f"UD{SEED[2:]}", "use the seed of a user, which begins with SU"),
        ("NATS_TLS_CERT", "/nonexistent.pem", "name a PEM file that the server may read"),
        ("NATS_TLS_KEY", "/", "name a PEM file that the server may read"),
        ("CLUSTER_NAME", "shop.one", "use 1 to 100 letters, digits, underscores and hyphens"),
        ("CLUSTER_NAME", "a" * 101, "use 1 to 100 letters, digits, underscores and hyphens"),
        ("CLUSTER_ROLE", "leader", "use all, server or reader"),
        ("NATS_REPLICAS", "0", "use a whole number between 1 and 5"),
        ("NATS_REPLICAS", "6", "use a whole number between 1 and 5"),
        ("LOG_MAX_BYTES", "1000000", "use a whole number of at least 16777216"),
        ("LOG_MAX_AGE", "59999", "use a whole number of at least 60000"),
        ("LOG_ACK_DELAY", "-1", "use a whole number of at least 0"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(name: str, text: str, remedy: str) -> None:
    found = problems(**{name: text})
    assert found[0].startswith(f"{name} is ")
    assert remedy in found[0]


@pytest.mark.parametrize(
    "text", ["nats:/me:hidden@a", "nats://b,nats://me:hidden@a:99999", f"{'x' * 90},me:hidden@a"]
)
def test_a_password_in_a_bad_address_is_not_shown(text: str) -> None:
    assert "NATS_URL is " in problems(NATS_URL=text)[0]
    assert "hidden" not in str(problems(NATS_URL=text))


def test_secrets_may_be_in_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("nats-password\n")
    environ = {**CLUSTER, "NATS_USER": "realtime", "NATS_PASSWORD_FILE": str(secret)}
    config, found = read(environ)
    assert (config.nats_password, found) == ("nats-password", [])
    assert "nats-password" not in repr(config)
    assert {field.name for field in variable_fields(ClusterSettings) if not field.repr} >= {
        "nats_user",
        "nats_password",
        "nats_credentials",
        "nats_nkey_seed",
    }


# Several values that cannot work together.


def test_the_log_needs_a_slot_that_all_servers_know() -> None:
    _, (problem,) = read({"NATS_URL": URL})
    assert problem.startswith("NATS_URL is set without SLOT_NAME: ")


def test_a_temporary_slot_cannot_be_handed_on() -> None:
    (problem,) = problems(TEMPORARY_SLOT="true")
    assert problem.startswith("NATS_URL and TEMPORARY_SLOT=true: ")


def test_the_log_has_what_pgoutput_writes() -> None:
    (problem,) = problems(OUTPUT_PLUGIN="wal2json", REPLICATION_MODE="RLS")
    assert problem.startswith("NATS_URL and OUTPUT_PLUGIN=wal2json: ")


@pytest.mark.parametrize(
    "url", ["nats://me:hidden@a:4222", "nats://token@a", "nats://b,nats://t@a"]
)
def test_an_address_has_no_login_in_it(url: str) -> None:
    (problem,) = problems(NATS_URL=url)
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
    (problem,) = problems(**environ)
    assert problem.startswith(expected)


@pytest.mark.parametrize("field", OWN[1:], ids=lambda field: field.name)
def test_nothing_is_set_in_vain(field: attrs.Attribute[Any]) -> None:
    texts = {
        "nats_credentials": CREDENTIALS,
        "nats_nkey_seed": SEED,
        "cluster_name": "shop",
        "cluster_role": "reader",
        "nats_replicas": "3",
        "log_max_bytes": "20000000",
        "log_max_age": "70000",
        "log_ack_delay": "1",
    }
    name = field.name.upper()
    _, (problem,) = read({name: texts.get(field.name, __file__)})
    assert problem.startswith("NATS_URL is missing, without which ")
    assert name in problem


# What follows from the values.


def test_the_log_is_named_after_the_slot_unless_it_has_a_name() -> None:
    assert read(CLUSTER)[0].stream_name == "realtime_realtime"
    assert read({**CLUSTER, "CLUSTER_NAME": "shop"})[0].stream_name == "shop"


@pytest.mark.parametrize(
    ("role", "leads", "serves"),
    [("all", True, True), ("server", False, True), ("reader", True, False)],
)
def test_a_role_says_who_leads_and_who_serves(role: str, leads: bool, serves: bool) -> None:
    config, _ = read({**CLUSTER, "CLUSTER_ROLE": role})
    assert (config.may_lead, config.serves_clients) == (leads, serves)


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
    assert read({**CLUSTER, **environ})[0].wants_nats_tls is wanted
