"""The compiled implementation: the same tests pass with it, and it agrees with the one in Python.

`make test` compiles it into build/accelerator, where a C compiler is. It is used in the processes
that are started here, and nowhere else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "build" / "accelerator"

# Tests of what it takes over.
TESTS = (
    "tests/core/pgoutput/test_captures.py",
    "tests/core/pgoutput/test_captures_forms.py",
    "tests/core/pgoutput/test_change_decoder.py",
    "tests/core/pgoutput/test_decoder.py",
    "tests/core/snapshot",
    "tests/core/types",
    "tests/core/sources/test_copy_data.py",
    "tests/core/sources/test_live_stream.py",
    "tests/core/sources/test_queue.py",
    "tests/core/sources/test_replication_connection.py",
    "tests/core/test_records.py",
    "tests/fuzz/test_fuzz_pgoutput.py",
    "tests/property/test_pgoutput.py::test_any_bytes_are_a_message_or_a_decode_error",
    "tests/property/test_pgoutput_streams.py",
    "tests/property/test_pgoutput_values.py",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (COMPILED / ".done").is_file(),
        reason="the accelerator is not compiled: make accelerator, which takes a C compiler",
    ),
]


def with_accelerator(
    *arguments: str, use: str = "c", **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **settings,
        "PYTHONPATH": os.pathsep.join([str(COMPILED), str(ROOT)]),
        "REALTIME_CORE_IMPL": use,
    }
    # What belongs to the run of the tests that this one is among.
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_what_it_takes_over_passes_the_same_tests() -> None:
    plugins = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:rerunfailures")
    done = with_accelerator("-m", "pytest", "-q", *plugins, *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_implementations_make_the_same_of_any_input() -> None:
    # A process that writes beyond what it has asked for ends.
    arguments = ("-m", "tests.fuzz.fuzz_implementations", "4000", "1")
    done = with_accelerator(*arguments, PYTHONMALLOC="debug")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_of_the_librarys_version_and_used_unless_something_else_is_said() -> None:
    code = "from realtime_core._implementation import IMPLEMENTATION; print(IMPLEMENTATION)"
    for use, used in (("", "c"), ("c", "c"), ("python", "python")):
        done = with_accelerator("-c", code, use=use)
        assert (done.stdout, done.stderr) == (f"{used}\n", "")


FIELDS = """
from realtime_core import Record, Shape
import realtime_core.pgoutput

record, bare = Record(Shape(()), ()), object.__new__(Record)
for ask in (
    lambda: setattr(record, "fields", b"I"),
    lambda: bare.fields,
    lambda: bare.as_python(),
    lambda: Record.fields.__get__(1, int),
    lambda: setattr(bare, "fields", ("1",)) or print(bare.fields),
):
    try:
        ask()
    except (AttributeError, TypeError) as error:
        print(type(error).__name__)
"""


def test_a_record_takes_no_bytes_that_were_not_checked_for_its_fields() -> None:
    done = with_accelerator("-c", FIELDS)
    expected = ["TypeError", "AttributeError", "AttributeError", "TypeError", "('1',)"]
    assert done.stdout.split("\n") == [*expected, ""], done.stderr
