"""The rules about skips, second tries, versions and random examples, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

SUITE = """
import pytest

@pytest.fixture
def absent():
    pytest.skip("no such server")

def test_skips_in_its_fixture(absent): ...

@pytest.mark.skip(reason="not here")
def test_is_marked(): ...

@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail():
    assert False
"""
SKIPPED_MODULE = "import pytest; pytest.skip('no such library', allow_module_level=True)"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_some.py").write_text(SUITE)
    (tmp_path / "test_none.py").write_text(SKIPPED_MODULE)
    return tmp_path


def run(suite: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull]
    return subprocess.run(
        [*command, *options, "--continue-on-collection-errors", f"--rootdir={suite}", suite],
        cwd=ROOT,
        env={
            name: value
            for name, value in os.environ.items()
            if name not in ("CI", "EXAMPLES", "EVERY_POSTGRES")
        }
        | environment,
        capture_output=True,
        text=True,
    )


def test_here_a_skip_is_a_skip(suite: Path) -> None:
    result = run(suite)
    assert "3 skipped, 1 xfailed" in result.stdout
    assert result.returncode == 0


def test_with_ci_a_skip_is_a_failure_that_says_why(suite: Path) -> None:
    result = run(suite, CI="true")
    assert "1 xfailed, 3 errors" in result.stdout
    for reason in ("no such server", "not here", "no such library"):
        assert f"{reason} (CI=true allows no skips)" in result.stdout
    assert result.returncode == 1


FAILS_AT_FIRST = """
import pathlib, pytest

def once(name):
    file = pathlib.Path(__file__).with_name(name)
    seen = file.exists()
    file.touch()
    assert seen, "the first time"

@pytest.mark.integration
@pytest.mark.parametrize("place", range(PLACES))
def test_of_processes(place):
    once(f"process {place}")

def test_unit():
    once("unit") if UNIT else None
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_of_processes_is_tried_once_more_and_shown(tmp_path: Path, workers: int) -> None:
    def tried(places: int, unit: bool = False) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / f"{places} {unit}"
        folder.mkdir()
        text = FAILS_AT_FIRST.replace("PLACES", str(places)).replace("UNIT", str(unit))
        (folder / "test_some.py").write_text(text)
        return run(folder, "--reruns", "1", "-n", str(workers))

    few = tried(5)
    assert few.returncode == 0
    assert "6 passed" in few.stdout
    assert "5 rerun" in few.stdout
    assert few.stdout.count("AssertionError: the first time") == 5
    many = tried(6)
    assert many.returncode == 1
    assert "6 tests failed at first; 5 at most may" in many.stdout
    assert tried(0, unit=True).returncode == 1


VERSIONS = """
import pytest

@pytest.fixture(params=["pg17", "pg18"])
def pg(request):
    return request.param

def test_on_one(pg): ...

@pytest.mark.every_postgres
def test_on_each(pg): ...
"""


def test_what_does_not_depend_on_postgresqls_version_runs_on_one(tmp_path: Path) -> None:
    for name in ("test_some.py", "test_other.py"):
        (tmp_path / name).write_text(VERSIONS)
    few = run(tmp_path, "-v")
    assert few.returncode == 0
    assert "6 passed, 2 deselected" in few.stdout
    # The files are shared out between the versions.
    assert sum(f"test_on_one[{name}] PASSED" in few.stdout for name in ("pg17", "pg18")) == 2
    assert "8 passed" in run(tmp_path, EVERY_POSTGRES="1").stdout


PLUGINS = """
import pytest

STREAMS = [("pg17", "pgoutput"), ("pg18", "pgoutput"), ("pg17", "wal2json")]

@pytest.fixture(params=STREAMS, ids="-".join)
def stream(request):
    return request.param

def test_one(stream): ...

@pytest.mark.every_plugin
def test_each(stream): ...
"""


def test_what_does_not_depend_on_the_output_plugin_runs_with_pgoutput(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(PLUGINS)
    few = run(tmp_path, "-v").stdout
    assert "3 passed, 3 deselected" in few
    assert "test_one[pg17-wal2json]" not in few
    assert "test_each[pg17-wal2json] PASSED" in few
    assert "6 passed" in run(tmp_path, EVERY_POSTGRES="1").stdout


PROPERTY = """
from hypothesis import given, strategies

@given(strategies.integers())
def test_numbers(number):
    with open("numbers", "a") as file:
        print(number, file=file)
"""


def examples(folder: Path, **environment: str) -> str:
    (folder / "test_property.py").write_text(PROPERTY.replace('"numbers"', f'"{folder}/numbers"'))
    (folder / "numbers").unlink(missing_ok=True)
    assert run(folder, **environment).returncode == 0
    return (folder / "numbers").read_text()


def test_properties_are_tried_with_the_same_examples_unless_asked_for_new_ones(
    tmp_path: Path,
) -> None:
    first = examples(tmp_path)
    assert examples(tmp_path) == first
    assert examples(tmp_path, EXAMPLES="1") != first
