"""Which web pages may talk to a server on a loopback address that asks for no token."""

from __future__ import annotations

import pytest

from realtime_server.net.origins import is_allowed, is_loopback, why_refused


def head(**headers: str) -> bytes:
    lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.9.1"),
        *("::1", "[::1]", "::ffff:127.0.0.1", "::1%lo"),
    ],
)
def test_a_name_of_the_machine_itself(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "example.com", "localhost.example.com", "notlocalhost", "128.0.0.1", "0.0.0.0"),
        *("::", "::ffff:10.0.0.1", "127.0.0.1.example.com", "2130706433", "0x7f.1"),
    ],
)
def test_any_other_name(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:4000"},
        {"Host": "127.0.0.1"},
        {"Host": "[::1]:4000"},
        {"Host": "localhost:4000", "Origin": "http://localhost:4000"},
        {"HOST": "LocalHost:4000", "ORIGIN": "HTTP://localhost:4000"},
    ],
)
def test_programs_and_the_servers_own_page_are_let_in(headers: dict[str, str]) -> None:
    assert why_refused(head(**headers), ()) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "localhost:4000", "Origin": "https://evil.example"}, "ALLOWED_ORIGINS='[\"https"),
        ({"Host": "localhost:4000", "Origin": "http://localhost:5173"}, "ALLOWED_ORIGINS='[\"http"),
        ({"Host": "localhost:4000", "Origin": "null"}, "a page of 'null' asked"),
        ({"Origin": "http://localhost:4000"}, "a page of 'http://localhost:4000' asked"),
        # Its name was made to mean 127.0.0.1.
        ({"Host": "evil.example:4000"}, "Host is 'evil.example:4000', not a name of this machine"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, "Host is 'evil.example'"),
        ({"Host": "[::1", "Origin": "http://[::1"}, "Host is '[::1'"),
    ],
)
def test_strangers_pages_are_not(headers: dict[str, str], expected: str) -> None:
    refusal = why_refused(head(**headers), ())
    assert refusal is not None
    assert expected in refusal


def test_allowed_origins_are_let_in_and_so_are_their_names() -> None:
    allowed = ("http://localhost:5173", "https://app.example")
    for headers in (
        {"Host": "localhost:4000", "Origin": "http://localhost:5173"},
        {"Host": "app.example", "Origin": "https://app.example"},
        {"Host": "app.example"},
    ):
        assert why_refused(head(**headers), allowed) is None
    assert why_refused(head(Host="localhost", Origin="http://localhost:5174"), allowed)
    assert why_refused(head(Host="evil.example"), allowed)


@pytest.mark.parametrize(
    ("origin", "allowed_origins", "expected"),
    [
        ("https://app.example", (), True),
        (None, ("https://app.example",), True),
        ("HTTPS://App.Example", ("https://app.example",), True),
        ("https://other.example", ("https://app.example",), False),
        ("", ("https://app.example",), False),
        ("null", ("https://app.example",), False),
    ],
)
def test_a_list_of_origins_keeps_the_pages_of_others_out(
    origin: str | None, allowed_origins: tuple[str, ...], expected: bool
) -> None:
    assert is_allowed(origin, allowed_origins) == expected
