"""What stands around the server in an end-to-end test: a shop's database, Node, a browser."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, find_chromium, running_browser
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"

# Containers need rights that a machine may lack on which everything else runs.
collect_ignore = [] if os.environ.get("CONTAINERS") else ["test_image.py"]

SHOP = """
    create table users (
        id bigint primary key,
        name text not null,
        tags text[],
        created timestamptz
    );
    create table todos (id int primary key, task text, done boolean);
    alter table todos replica identity full;
    create schema depot;
    create table depot.goods (id int primary key, price numeric(8, 2));
    create publication changes for all tables;
"""


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with tables in two schemas, one of them with all of its old rows."""
    database.execute(SHOP)
    return database


@pytest.fixture
def server(shop: Database) -> Iterator[ServerProcess]:
    """A server that broadcasts the shop's changes."""
    with ServerProcess(shop, publications='["changes"]') as server:
        yield server


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of the JavaScript clients, with what they need installed."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; stock JavaScript clients need it")
    with alone():
        if not _is_installed():
            command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, cwd=CLIENTS, check=True, timeout=240)
    return CLIENTS


@pytest.fixture(scope="session")
def python_client() -> Path:
    """The Python of the environment that has the Python client."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed; it makes the Python client's environment")
    stamp = (CLIENTS / ".venv" / ".done").relative_to(ROOT)
    with alone():
        subprocess.run(["make", "--silent", str(stamp)], cwd=ROOT, check=True, timeout=240)
    return CLIENTS / ".venv" / "bin" / "python"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have no other worker install anything meanwhile."""
    folder = os.open(CLIENTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_installed() -> bool:
    """Compare with what npm noted: it writes this file when it is done."""
    note = CLIENTS / "node_modules" / ".package-lock.json"
    if not note.exists():
        return False
    installed = json.loads(note.read_text())["packages"]
    wanted = json.loads((CLIENTS / "package-lock.json").read_text())["packages"]
    return {name: it["integrity"] for name, it in installed.items()} == {
        name: it["integrity"] for name, it in wanted.items() if name
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with running_browser(chromium) as browser:
        yield browser
