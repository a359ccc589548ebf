"""The README's own client, with a token that is made as the page on tokens says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database
from tests.tokens import SECRET

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

ROOT = Path(__file__).parents[2]


def block(page: str, language: str) -> str:
    """Return the first fenced block of a page in one language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    assert found is not None
    return found[1]


def test_the_client_prints_the_changed_row(clients: Path, shop: Database) -> None:
    shop.execute("insert into users values (1, 'Ada')")
    made = subprocess.run(
        [sys.executable, "-c", block("docs/reference/tokens.md", "python")],
        env={**os.environ, "JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    with ServerProcess(
        shop, publications='["changes"]', SECURE_CHANNELS="true", JWT_SECRET=SECRET
    ) as server:
        source = block("README.md", "js").replace(
            "ws://127.0.0.1:4000/socket", server.websocket_url
        )
        # Beside the packages that it imports.
        program = clients / ".readme.mjs"
        program.write_text(source.replace("eyJ…", made.stdout.strip()))
        process = subprocess.Popen(["node", str(program)], stdout=subprocess.PIPE, text=True)
        try:
            server.wait_for_log("joined: 'realtime:public:users'")
            shop.execute("update users set name = 'Ada L.'")
            assert process.stdout is not None
            # One line, as long as it is short.
            shown = process.stdout.readline()
            assert shown.startswith("{ id: '1', name: 'Ada L.', ")
        finally:
            process.kill()
            process.communicate()
            program.unlink()
