"""``python -m realtime_server`` as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict

__all__ = ["ServerProcess", "child_pids", "worker_pids"]

_LISTENING = re.compile(r"listening on .*, port (\d+)")


def worker_pids(supervisor: int) -> list[int]:
    """Return the process IDs of a supervisor's workers (Linux)."""
    found = []
    for child in child_pids(supervisor):
        with contextlib.suppress(FileNotFoundError):
            # One child is the process that they are forked from.
            if Path(f"/proc/{child}/comm").read_text().startswith("worker "):
                found.append(child)
    return found


def child_pids(pid: int) -> list[int]:
    """Return the process IDs of a process's children (Linux)."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class ServerProcess:
    """The server with development defaults on a free port.

    Args:
        dsn: of its database.
        module: that is run.
        patience: seconds that it may take to say something.
        environment: more variables.
    """

    def __init__(
        self,
        dsn: str,
        *,
        module: str = "realtime_server",
        patience: float = 30,
        **environment: str,
    ) -> None:
        self._module = module
        self._patience = patience
        database = conninfo_to_dict(dsn)
        self.environment = {
            **os.environ,
            "DB_HOST": str(database.get("host", "localhost")),
            "DB_PORT": str(database.get("port", 5432)),
            "DB_NAME": str(database.get("dbname", "postgres")),
            "DB_USER": str(database.get("user", "postgres")),
            "DB_PASSWORD": str(database.get("password", "")),
            "PORT": "0",
            **environment,
        }
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self._module, "--dev"],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.port = int(self.wait_for_log(_LISTENING)[1])
        except BaseException:
            # Nobody calls __exit__ then.
            self._end()
            raise
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 30) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        finally:
            self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def wait_until_streaming(self) -> None:
        self.wait_for_log(re.compile("streaming from database"))

    def wait_for_log(
        self, pattern: re.Pattern[str], *, within: float | None = None
    ) -> re.Match[str]:
        """Return the first match in what the server logged."""
        deadline = time.monotonic() + (self._patience if within is None else within)
        while True:
            for line in list(self.log):
                if match := pattern.search(line):
                    return match
            assert time.monotonic() < deadline, "".join(self.log)
            assert self.process.poll() is None, "".join(self.log)
            time.sleep(0.01)

    def whole_log(self) -> str:
        """Return all that the server logged; it has ended."""
        self._reader.join()
        return "".join(self.log)

    def peak_memory(self) -> int:
        """Peak resident size in bytes since the start or the last reset (Linux)."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def forget_peak_memory(self) -> int:
        """Have the peak begin anew; return the resident size in bytes that it begins with."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as clear:
            clear.write("5")
        return self.peak_memory()

    def cpu_time(self) -> float:
        """Seconds of processor time used so far, in user and system mode (Linux)."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
