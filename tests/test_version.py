"""The version is said in one place, and everybody who is asked says that one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import realtime_core
import realtime_server

ROOT = Path(__file__).parents[1]


def test_both_packages_have_the_distributions_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    where = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{realtime_core.__version__}"' in where.read_text()
    assert realtime_server.__version__ == realtime_core.__version__


def test_the_accelerator_has_it_and_the_extra_asks_for_that() -> None:
    version = realtime_core.__version__
    package = ROOT / "accelerator" / "realtime_core_c" / "__init__.py"
    assert f'__version__ = "{version}"' in package.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["c"] == [f"realtime-core-c=={version}"]


def test_the_changelog_has_a_heading_for_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    versions = [heading.partition(" - ")[0] for heading in headings if heading != "Unreleased"]
    assert versions[0] == realtime_core.__version__


@pytest.mark.slow
@pytest.mark.parametrize("package", ["realtime_core", "realtime_server"])
def test_a_command_line_says_its_version(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--version"], capture_output=True, text=True, timeout=60
    )
    told = f"realtime-core {realtime_core.__version__}\n"
    assert (done.stdout, done.stderr, done.returncode) == (told, "", 0)


def test_the_version_needs_no_metadata_of_an_installation() -> None:
    """A checkout on the path has none, and to look for it takes longer than all else."""
    code = "import realtime_core, sys; print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
