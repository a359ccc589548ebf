"""The rules about skips and random examples, seen from outside."""

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


def run(suite: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull]
    return subprocess.run(
        [*command, "--continue-on-collection-errors", f"--rootdir={suite}", suite],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in ("CI", "EXAMPLES")}
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
