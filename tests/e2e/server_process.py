"""The server as an operator runs it: `python -m realtime_server --dev`, a process."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict

from tests.fix_postgres import Database
from tests.waiting import eventually_sync

__all__ = ["ServerProcess"]

_PATIENCE = 90.0
"""Seconds that a server may take to say something, on a machine that has much else to do."""


class ServerProcess:
    """A server on a database. Inside the `with` block it listens and streams.

    Args:
        database: what it broadcasts.
        publications: as JSON.
        port: 0 takes a free one; `port` says which.
        streaming: whether to wait until it streams.
        environment: more variables.
    """

    def __init__(
        self,
        database: Database,
        *,
        publications: str,
        port: int = 0,
        streaming: bool = True,
        **environment: str,
    ) -> None:
        self.port = port
        self._streaming = streaming
        self._was_killed = False
        self.log: list[str] = []
        self._environ = {
            **os.environ,
            **_database_settings(database),
            "PUBLICATIONS": publications,
            **environment,
        }

    @property
    def websocket_url(self) -> str:
        """What a Phoenix client takes, without `/websocket`."""
        return f"ws://127.0.0.1:{self.port}/socket"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def page_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "realtime_server", "--dev"],
            env={**self._environ, "PORT": str(self.port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            [port] = self.wait_for_log(r"listening on .*, port (\d+)")
            if self._streaming:
                self.wait_for_log("streaming from database")
        except BaseException:
            self._stop()
            raise
        self.port = int(port)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = self._stop()
        assert exc is not None or code == 0 or self._was_killed, self.log

    def stop(self) -> None:
        """Stop it before the end of the block."""
        assert self._stop() == 0, self.log

    def kill(self) -> None:
        """Kill it before the end of the block, which it then has no say in."""
        self._process.kill()
        self._stop()
        self._was_killed = True

    def wait_for_log(self, pattern: str) -> Sequence[str]:
        """Wait for a line of the log; return the pattern's groups."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in [*self.log] if (match := re.search(pattern, line)))
            return bool(found) or self._process.poll() is not None

        with contextlib.suppress(AssertionError):
            eventually_sync(look, within=_PATIENCE)
        said = "".join(self.log)
        assert found, f"no {pattern!r} from the server, exit code {self._process.poll()}:\n{said}"
        return found[0].groups()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            self.log.extend(stderr)

    def _stop(self) -> int:
        # Once it has ended, all of this does nothing.
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()


def _database_settings(database: Database) -> dict[str, str]:
    parameters = conninfo_to_dict(database.dsn)
    names = {
        "host": "DB_HOST",
        "port": "DB_PORT",
        "user": "DB_USER",
        "password": "DB_PASSWORD",
        "dbname": "DB_NAME",
    }
    return {
        variable: str(parameters[name])
        for name, variable in names.items()
        if parameters.get(name) is not None
    }
