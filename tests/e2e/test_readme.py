"""The README, as somebody follows it who has just cloned the repository."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import realtime_core
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, unique_name
from tests.tokens import SECRET

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

ROOT = Path(__file__).parents[2]


def block(page: str, language: str) -> tuple[str, str]:
    """Return the first fenced block of a page in one language: its title and its text."""
    found = re.search(
        rf'^```{language}(?: title="(.*)")?\n(.*?)^```$', (ROOT / page).read_text(), re.M | re.S
    )
    assert found is not None
    return found[1], found[2]


def make_token(folder: Path) -> str:
    """Save the page's program under its name, and run it there."""
    name, source = block("docs/reference/tokens.md", "python")
    # Python looks in a program's folder first: nothing may find it instead of its own.
    assert importlib.util.find_spec(name.removesuffix(".py")) is None
    (folder / name).write_text(source)
    _, command = block("docs/reference/tokens.md", "sh")
    made = subprocess.run(
        command.replace("…", SECRET).replace("python", sys.executable, 1),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


@pytest.mark.slow
def test_it_is_installed_into_an_environment_of_its_own(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    kept = ("realtime_core", "realtime_server", "pyproject.toml", "README.md", "LICENSE")
    clone.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            # What Python has compiled may come and go meanwhile.
            unneeded = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, clone / name, ignore=unneeded)
        else:
            shutil.copy(ROOT / name, clone / name)
    install = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    look = "import sys, psycopg, realtime_core; print(sys.prefix, realtime_core.__version__)"
    done = subprocess.run(
        ["sh", "-ec", f'{install}\ncd /\npython -c "{look}"\nrealtime-core --version'],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    version = realtime_core.__version__
    last = done.stdout.splitlines()[-2:]
    assert last == [f"{clone / 'env'} {version}", f"realtime-core {version}"]


def test_the_client_prints_the_changed_row(clients: Path, shop: Database, tmp_path: Path) -> None:
    shop.execute("insert into users values (1, 'Ada')")
    with ServerProcess(
        shop, publications='["changes"]', SECURE_CHANNELS="true", JWT_SECRET=SECRET
    ) as server:
        _, source = block("README.md", "js")
        source = source.replace("ws://127.0.0.1:4000/socket", server.websocket_url)
        # Beside the packages that it imports.
        program = clients / f".{unique_name('readme')}.mjs"
        program.write_text(source.replace("eyJ…", make_token(tmp_path)))
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
