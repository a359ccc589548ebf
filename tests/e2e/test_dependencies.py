"""The lowest versions of the dependencies that are allowed.

An environment that is made anew has the latest ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("arrow", "binary", "regex", "fast", "webhooks", "cluster", "opentelemetry")
TESTS = (
    "tests/server/net",  # websockets and h11
    "tests/core/sources",  # psycopg
    "tests/core/test_arrow.py",  # pyarrow
    "tests/core/types/test_python_values.py",  # its loaders
    "tests/core/filters/test_compiler.py",  # google-re2
    "tests/server/auth",  # authlib and joserfc
    "tests/server/config",  # attrs and cattrs
    "tests/server/phoenix",  # cattrs and orjson
    "tests/server/webhooks",  # httpx
    "tests/server/cluster",  # nats-py
    "tests/server/test_metrics.py",  # prometheus-client
)


def lowest() -> dict[str, str]:
    """Return the lowest version that is allowed of each package that is asked for."""
    wanted = list(PROJECT["dependencies"])
    for extra in EXTRAS:
        wanted += PROJECT["optional-dependencies"][extra]
    found = {}
    for requirement in wanted:
        name, version = re.fullmatch(
            r"([a-z0-9-]+)(?:\[\w+\])?>=([0-9.]+)(?:[,;].*)?", requirement
        ).groups()  # type: ignore[union-attr]
        assert found.setdefault(name, version) == version
    # It has to be psycopg's own version.
    return {**found, "psycopg-binary": found["psycopg"]}


def command(*words: str | Path) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_pass_with_the_lowest_versions_that_are_allowed(tmp_path: Path) -> None:
    versions = lowest()
    constraints = tmp_path / "constraints.txt"
    pins = [f"{name}=={version}\n" for name, version in versions.items()]
    constraints.write_text("".join(pins))
    environment = tmp_path / "environment"
    command(sys.executable, "-m", "venv", "--without-pip", environment)
    # Most modules are never imported.
    install = ("install", "--no-compile", "--only-binary=:all:", "--no-binary=nkeys")
    command(
        *(sys.executable, "-m", "pip", "--python", environment, *install),
        *("--constraint", constraints, f".[{','.join([*EXTRAS, 'test'])}]"),
    )
    python = environment / "bin" / "python"
    names = ", ".join(map(repr, versions))
    code = f"from importlib.metadata import version; print(*map(version, [{names}]))"
    installed = dict(zip(versions, command(python, "-c", code).split(), strict=True))
    for name, version in versions.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", installed[name]), name
    marks = "not slow and not integration and not e2e"
    command(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, *TESTS)
