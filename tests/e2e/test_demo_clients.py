"""The clients that the demo prints: pasted into a file of that name, they show changes."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database
from tests.server.demo.test_main import Demo, running

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

IDLE_TIMEOUT = 27
"""Seconds: a little more than the time between two of the Python client's heartbeats."""


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running() as demo:
        yield demo


@contextmanager
def pasted(
    demo: Demo, language: str, runner: str, folder: Path, url: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Save what the demo prints under the name that it says, and run it.

    Args:
        url: instead of the demo's own socket.
    """
    found = re.search(rf"^{language}, as (\S+) ", demo.said, re.MULTILINE)
    assert found, demo.said
    program = folder / found[1]
    snippet = demo.snippet(language)
    program.write_text(re.sub(r'ws://[^"]+', url, snippet) if url else snippet)
    with subprocess.Popen(
        [runner, *(["-u"] if "python" in runner else []), str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            program.unlink()


def test_the_javascript_client(demo: Demo, clients: Path) -> None:
    with pasted(demo, "JavaScript", "node", clients) as process:
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        assert next(line for line in lines if line.startswith("table:")) == "table: 'users',"


def test_the_python_client_which_ctrl_c_ends_without_a_traceback(
    demo: Demo, python_client: Path, tmp_path: Path
) -> None:
    with pasted(demo, "Python", str(python_client), tmp_path) as process:
        assert process.stdout is not None
        assert "'table': 'users'" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, "")


@pytest.mark.slow
def test_the_python_client_is_not_taken_for_gone(
    demo: Demo, python_client: Path, shop: Database, tmp_path: Path
) -> None:
    settings = {"IDLE_TIMEOUT": str(IDLE_TIMEOUT * 1000)}
    with (
        ServerProcess(shop, publications='["changes"]', **settings) as server,
        pasted(demo, "Python", str(python_client), tmp_path, server.websocket_url) as process,
    ):
        server.wait_for_log("joined: ")
        # This one comes later, says nothing, and is closed for it.
        with connect(f"{server.websocket_url}/websocket") as silent:
            assert list(silent) == []
        shop.execute("insert into users values (1, 'still here')")
        assert process.stdout is not None
        assert "still here" in process.stdout.readline()
