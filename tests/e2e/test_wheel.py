"""A built wheel in a clean environment, as a stranger installs it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import realtime_server

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]


class Environment:
    """A virtual environment, and a folder that has nothing to do with the repository."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / ("Scripts" if sys.platform == "win32" else "bin")

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._bin / program), *arguments],
            cwd=self._folder,
            env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", textwrap.dedent(code))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment with the wheel and its extra `binary`."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    python = [sys.executable, "-m"]
    run([*python, "build", "--wheel", "--outdir", str(folder), str(REPOSITORY)])
    [wheel] = folder.glob("*.whl")
    # The pip that is here installs into it, which spares it one of its own.
    run([*python, "venv", "--without-pip", str(environment)])
    into = ["--python", str(environment), "install", "--no-compile"]
    run([*python, "pip", *into, f"{wheel}[binary]"])
    return Environment(environment)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [("python", "-m", "realtime_server"), ("realtime-server",)], ids=" ".join
)
def test_it_can_be_run(installed: Environment, command: tuple[str, ...]) -> None:
    done = installed.run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m realtime_server [-h] [--dev]")


@pytest.mark.parametrize("command", ["tail", "doctor", "decode"])
@pytest.mark.parametrize(
    "program", [("python", "-m", "realtime_core"), ("realtime-core",)], ids=" ".join
)
def test_the_librarys_commands_can_be_run(
    installed: Environment, program: tuple[str, ...], command: str
) -> None:
    done = installed.run(*program, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m realtime_core {command} [-h] ")


@pytest.mark.parametrize("program", ["realtime-core", "realtime-server"])
def test_a_program_says_the_version_that_was_installed(
    installed: Environment, program: str
) -> None:
    code = "import importlib.metadata; print(importlib.metadata.version('realtime-core'))"
    version = installed.python(code).stdout
    assert version
    assert installed.run(program, "--version").stdout == f"realtime-core {version}"


def test_it_comes_from_the_wheel_and_with_types(installed: Environment) -> None:
    done = installed.python(
        """
        import importlib.resources as resources, realtime_core, realtime_server
        for package in realtime_core, realtime_server:
            print(package.__file__)
            assert (resources.files(package) / "py.typed").is_file()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert str(REPOSITORY) not in done.stdout


def test_decoding_loads_no_driver(installed: Environment) -> None:
    done = installed.python(
        """
        import sys
        from realtime_core.pgoutput import Assembler, Decoder
        Assembler(), Decoder()
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(loaded & {"psycopg", "psycopg_binary", "websockets", "asyncio"})
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_the_page_is_there(installed: Environment) -> None:
    done = installed.python(
        """
        from realtime_server.auth.authorizer import AllowAll
        from realtime_server.config import ServerConfig
        from realtime_server.net.http import HttpRequest
        from realtime_server.net.inspector import TableList, inspector_endpoints
        tables = TableList.of(ServerConfig())
        endpoints = inspector_endpoints(AllowAll(), tables, allowed_origins=())
        print(*sorted(endpoints))
        print(endpoints["/"](HttpRequest("GET", "/")).body.decode())
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    paths, page = done.stdout.split("\n", 1)
    source = Path(realtime_server.__file__).parent / "net" / "inspector" / "page"
    names = ["", "inspector.json", *(path.name for path in source.iterdir())]
    assert paths.split() == sorted(f"/{name}" for name in names)
    assert "<title>Realtime inspector</title>" in page


@pytest.mark.parametrize("implementation", ["", "python"])
def test_without_libpq_one_line_says_what_to_do(
    installed: Environment, implementation: str
) -> None:
    """Neither psycopg's wheels nor a library of the system are found."""
    done = installed.python(
        f"""
        import ctypes.util, os, runpy, sys
        os.environ["PSYCOPG_IMPL"] = {implementation!r}
        sys.modules["psycopg_c"] = sys.modules["psycopg_binary"] = None
        ctypes.util.find_library = lambda name: None
        runpy.run_module("realtime_server", run_name="__main__")
        """
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: psycopg finds no libpq, PostgreSQL's client library; "
        'pip install "psycopg[binary]", or install libpq from the system\'s packages\n'
    )
