"""deploy/realtime.service: systemd finds nothing wrong with it, and it protects what it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from realtime_server.config import variables

pytestmark = pytest.mark.e2e

UNIT = Path(__file__).parents[2] / "deploy" / "realtime.service"
PROGRAM = "/opt/realtime/bin/realtime-server"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is installed here; systemd looks whether it can be run."""
    text = UNIT.read_text(encoding="utf-8")
    assert text.count(f"ExecStart={PROGRAM}\n") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return copy


def analyze(*arguments: str | Path) -> tuple[int, str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    assert analyze("verify", unit) == (0, "")


def test_systemd_would_find_a_misspelt_setting(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    unit.write_text(text.replace("WatchdogSec=", "WatchdogSecs="), encoding="utf-8")
    assert "Unknown key 'WatchdogSecs'" in analyze("verify", unit)[1]


def test_its_exposure_is_what_the_documentation_says(unit: Path) -> None:
    code, output = analyze("security", "--offline=true", "--threshold=15", unit)
    assert code == 0, output
    rated = re.search(r"exposure level for realtime.service: (\S+)", output)
    assert rated is not None
    assert float(rated[1]) <= 1.5


def override() -> str:
    """What the documentation adds to the unit."""
    page = (UNIT.parents[1] / "docs" / "howto" / "systemd.md").read_text(encoding="utf-8")
    [text] = re.findall('^```ini title="override.conf"\n(.*?)^```$', page, re.M | re.S)
    return str(text)


def test_systemd_finds_nothing_wrong_with_what_the_documentation_adds(unit: Path) -> None:
    folder = unit.parent / f"{unit.name}.d"
    folder.mkdir()
    (folder / "override.conf").write_text(override(), encoding="utf-8")
    assert analyze("verify", unit) == (0, "")
    (folder / "override.conf").write_text("[Service]\nLoadCredentials=a:/b\n", encoding="utf-8")
    assert "Unknown key 'LoadCredentials'" in analyze("verify", unit)[1]


def test_every_variable_is_one_of_the_servers_and_every_credential_is_there() -> None:
    names = {name for one in variables() for name in (one.name, f"{one.name}_FILE")}
    text = UNIT.read_text(encoding="utf-8") + override()
    settings = dict(
        part.split("=", 1)
        for line in re.findall("^Environment=(.*)$", text, re.MULTILINE)
        for part in line.split()
    )
    assert settings.keys() <= names
    loaded = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert {one.removeprefix("%d/") for one in settings.values() if "%d/" in one} == loaded
