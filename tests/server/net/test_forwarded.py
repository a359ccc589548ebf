"""ClientAddresses: who is believed, and which address counts."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from realtime_server.net.acceptor import Acceptor, RequestHead
from realtime_server.net.forwarded import ClientAddresses
from realtime_server.net.http import Site
from tests.server_helpers import FakeTransport, make_backlog, make_metrics, open_config

PROXY = "10.0.0.2"
TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")


def find(*values: str, header: str = "X-Forwarded-For", peer: str = PROXY) -> str | None:
    lines = ["GET / HTTP/1.1", "Host: a", *(f"{header.upper()}: {value}" for value in values)]
    return ClientAddresses(header, TRUSTED).find("\r\n".join(lines).encode("latin-1"), peer)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ((), None),
        (("203.0.113.7",), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7",), "203.0.113.7"),
        (("198.51.100.1,203.0.113.7 , 10.1.1.1",), "203.0.113.7"),
        (("198.51.100.1", "203.0.113.7"), "203.0.113.7"),
        (("203.0.113.7:4711",), "203.0.113.7"),
        (("2001:db8::1",), "2001:db8::1"),
        (("[2001:DB8::1]:4711",), "2001:db8::1"),
        (("[2001:db8::1]",), "2001:db8::1"),
        (("203.0.113.7, 2001:db8:1::5",), "203.0.113.7"),
        (("::ffff:203.0.113.7",), "203.0.113.7"),
        (("fe80::1%eth0",), "fe80::1"),
        # All of them are proxies: the first has a client on its own machine.
        (("10.0.0.5, 10.0.0.4",), "10.0.0.5"),
        # The client's own words do not matter, whatever they are.
        (('\x00\xff", 203.0.113.7',), "203.0.113.7"),
    ],
)
def test_the_last_address_that_is_no_trusted_proxys_counts(
    values: tuple[str, ...], client: str | None
) -> None:
    assert find(*values) == client


@pytest.mark.parametrize("peer", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:2::1", "", "nonsense"])
def test_nobody_else_is_believed(peer: str) -> None:
    assert find("203.0.113.7", peer=peer) is None


@pytest.mark.parametrize("peer", ["10.255.0.1", "::ffff:10.0.0.2", "2001:db8:1::9"])
def test_a_proxy_is_known_in_either_family(peer: str) -> None:
    assert find("203.0.113.7", peer=peer) == "203.0.113.7"


def test_without_trusted_proxies_nothing_is_read() -> None:
    head = b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7"
    assert ClientAddresses(None, ()).find(head, PROXY) is None
    assert ClientAddresses("X-Forwarded-For", ()).find(head, PROXY) is None


def test_only_the_header_that_is_named_is_read() -> None:
    head = b"GET /?X-Real-IP:1.1.1.1 HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nA: X-Real-IP: 9"
    assert ClientAddresses("X-Real-IP", TRUSTED).find(head, PROXY) is None


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("unknown", None),
        ("198.51.100.1, unknown", None),
        ("198.51.100.1, ", None),
        ("198.51.100.1, 203.0.113.7x", None),
        ("198.51.100.1, 203.0.113.7:", None),
        ("198.51.100.1, 3405803783", None),
        ("198.51.100.1, _hidden, 10.0.0.9", "10.0.0.9"),
        ("a" * 5000, None),
    ],
)
def test_garbage_is_logged_and_what_is_before_it_is_not_believed(
    value: str, client: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert find(value) == client
    assert caplog.messages == [
        f"no address can be read from the end of {value.strip()[-100:]!r} (FORWARDED_HEADER): what "
        f"10.0.0.2 passes on counts as a request by {client or PROXY}"
    ]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (("for=203.0.113.7",), "203.0.113.7"),
        (('For="[2001:db8::1]:4711"',), "2001:db8::1"),
        (("for=198.51.100.1, for=203.0.113.7;proto=https;by=10.0.0.2",), "203.0.113.7"),
        (("by=10.0.0.2 ; for=203.0.113.7 ;host=a", "for=10.0.0.3"), "203.0.113.7"),
        (('for=203.0.113.7;host="a, for=198.51.100.1;x=\\""',), "203.0.113.7"),
        (('for="\\203.0.113.7"',), "203.0.113.7"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_says(values: tuple[str, ...], client: str) -> None:
    assert find(*values, header="Forwarded") == client


@pytest.mark.parametrize(
    "value",
    [
        # A client opens a quote, so that what the proxy adds is in it.
        'for="198.51.100.1, for=203.0.113.7',
        'for=198.51.100.1;x=", for=203.0.113.7',
        "203.0.113.7",
        "for=203.0.113.7, by=10.0.0.2",
        "for=unknown",
        'for="[2001:db8::1]" x',
    ],
)
def test_forwarded_that_is_none_is_not_believed(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert find(value, header="Forwarded") is None
    assert "no address can be read" in caplog.text


def test_a_long_header_takes_no_time() -> None:
    assert find(",".join(["10.0.0.1"] * 7000)) == "10.0.0.1"
    assert find('for="' + "\\" * 60_001, header="Forwarded") is None


# The acceptor.


class Transport(FakeTransport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (PROXY, 4321) if name == "peername" else default


async def test_a_refusal_names_the_client_and_the_proxys_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.listener")
    config = open_config(
        trusted_proxies=TRUSTED, forwarded_header="X-Forwarded-For", max_query_bytes=1024
    )
    site = Site(why_not_ready=lambda: None, metrics=None, metrics_type="text/plain")
    acceptor = Acceptor(site, config, make_metrics(), make_backlog())
    transport = Transport()
    head = RequestHead(asyncio.Protocol, acceptor)
    head.connection_made(transport)
    assert acceptor.peer(transport) == "10.0.0.2:4321"
    query = b"x" * 2000
    head.data_received(b"GET /?" + query + b" HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
    assert caplog.messages == ["request by 203.0.113.7 via 10.0.0.2:4321 refused: query"]
    acceptor.forget(transport)
    assert acceptor.peer(transport) == "10.0.0.2:4321"
