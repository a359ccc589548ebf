"""A client's program: it says what happens, a line of JSON each, and may be told what to do."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.waiting import eventually_sync

__all__ = ["NodeProgram", "Program"]


class Program:
    """A program that runs while the `with` block does.

    Args:
        command: its command line.
    """

    def __init__(self, *command: str) -> None:
        self.said: list[dict[str, Any]] = []
        """What it said so far."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            code = self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
        assert exc is not None or code == 0

    def tell(self, **command: Any) -> None:
        """Give it a command, as a line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def count(self, **fields: Any) -> int:
        """Count what it said that has all of these fields."""
        return sum(fields.items() <= line.items() for line in [*self.said])

    def wait_for(self, *, times: int = 1, **fields: Any) -> None:
        """Wait until it has said so, so many times."""
        self.wait_until(lambda: self.count(**fields) >= times)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true, while it runs."""

        def holds() -> bool:
            assert self._process.poll() is None, f"the program ended: {self.said}"
            return condition()

        eventually_sync(holds, within=60)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            # One that ends meanwhile leaves a line that is not whole.
            self.said.extend(json.loads(line) for line in stdout if line.endswith("\n"))


class NodeProgram(Program):
    """A program of the clients' folder, under Node.

    Args:
        path: the program.
        arguments: of its command line.
    """

    def __init__(self, path: Path, *arguments: str) -> None:
        super().__init__("node", str(path), *arguments)
