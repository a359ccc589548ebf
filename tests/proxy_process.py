"""nginx, HAProxy and Caddy in front of a server, with the configurations of deploy/."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.certificates import Authority
from tests.waiting import eventually_sync

__all__ = ["DEPLOY", "ProxyProcess", "caddy", "free_port", "haproxy", "nginx"]

DEPLOY = Path(__file__).parents[1] / "deploy"


class ProxyProcess:
    """A proxy that runs inside the `with` block, and speaks TLS for the name localhost.

    Args:
        arguments: of the program, its name first.
        port: that it listens on.
        authority: has signed its certificate.
        directory: it may write to.
    """

    def __init__(
        self, arguments: Sequence[str], *, port: int, authority: Authority, directory: Path
    ) -> None:
        self._arguments = arguments
        self.port = port
        self.tls = ssl.create_default_context(cadata=authority.certificate.decode())
        self._output = directory / "output"
        self._directory = directory

    def __enter__(self) -> Self:
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                self._arguments, stdout=output, stderr=subprocess.STDOUT, cwd=self._directory
            )
        try:
            eventually_sync(self._listens_or_ended)
            assert self._process.poll() is None, self.said()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def said(self) -> str:
        """Return all that it has written, its log of requests too."""
        files = [self._output, *self._directory.glob("*.log")]
        return "".join(file.read_text() for file in files)

    def _listens_or_ended(self) -> bool:
        if self._process.poll() is not None:
            return True
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()


def nginx(directory: Path, *, servers: tuple[int, int]) -> ProxyProcess:
    """Return nginx with deploy/nginx.conf, before two servers with slots of their own."""
    port, authority = free_port(), Authority()
    certificate, key = authority.issue("localhost")
    (directory / "realtime.crt").write_bytes(certificate)
    (directory / "realtime.key").write_bytes(key)
    site = _adapted(
        "nginx.conf",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            "127.0.0.1:4000": f"127.0.0.1:{servers[0]}",
            "127.0.0.1:4001": f"127.0.0.1:{servers[1]}",
            "/etc/ssl/realtime.crt": str(directory / "realtime.crt"),
            "/etc/ssl/realtime.key": str(directory / "realtime.key"),
            "/var/log/nginx/realtime.log": str(directory / "requests.log"),
            "/var/log/nginx/error.log": str(directory / "errors.log"),
        },
    )
    # What the package's own nginx.conf has around a site, but for a process that stays here.
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = directory / "main.conf"
    main.write_text(
        f"{user} daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ {temporary}\n{site}\n}}\n"
    )
    arguments = [_program("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(main)]
    return ProxyProcess(arguments, port=port, authority=authority, directory=directory)


def haproxy(directory: Path, *, servers: tuple[int, int]) -> ProxyProcess:
    """Return HAProxy with deploy/haproxy.cfg, before a server and its standby."""
    port, authority = free_port(), Authority()
    (directory / "realtime.pem").write_bytes(b"".join(authority.issue("localhost")))
    config = directory / "haproxy.cfg"
    config.write_text(
        _adapted(
            "haproxy.cfg",
            {
                # Not as many files as that need are allowed everywhere.
                "maxconn 20000": "maxconn 100",
                "bind :443 ": f"bind 127.0.0.1:{port} ",
                "/etc/haproxy/realtime.pem": str(directory / "realtime.pem"),
                "first 127.0.0.1:4000": f"first 127.0.0.1:{servers[0]}",
                "second 127.0.0.1:4001": f"second 127.0.0.1:{servers[1]}",
            },
        )
    )
    arguments = [_program("haproxy"), "-db", "-f", str(config)]
    return ProxyProcess(arguments, port=port, authority=authority, directory=directory)


def caddy(directory: Path, *, servers: tuple[int, int]) -> ProxyProcess:
    """Return Caddy with deploy/Caddyfile, before a server and its standby."""
    port, authority = free_port(), Authority()
    certificate, key = authority.issue("localhost")
    (directory / "realtime.crt").write_bytes(certificate)
    (directory / "realtime.key").write_bytes(key)
    config = directory / "Caddyfile"
    config.write_text(
        _adapted(
            "Caddyfile",
            {
                # It would listen on the ports 80 and 2019 besides.
                "\tlog default {": "\tauto_https disable_redirects\n\tadmin off\n\tlog default {",
                "realtime.example.com {\n": f"https://localhost:{port} {{\n"
                f"\tbind 127.0.0.1\n\ttls {directory}/realtime.crt {directory}/realtime.key\n",
                "127.0.0.1:4000": f"127.0.0.1:{servers[0]}",
                "127.0.0.1:4001": f"127.0.0.1:{servers[1]}",
            },
        )
    )
    places = [f"XDG_{kind}_HOME={directory}" for kind in ("CONFIG", "DATA")]
    program = [_program("caddy"), "run", "--config", str(config)]
    arguments = ["env", *places, *program]
    return ProxyProcess(arguments, port=port, authority=authority, directory=directory)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _program(name: str) -> str:
    # Where they are on Debian, which has no sbin in a user's PATH.
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def _adapted(name: str, replacements: Mapping[str, str]) -> str:
    """Return a configuration with ports and paths of the test's; it is otherwise as it is."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text
