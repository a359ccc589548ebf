"""`python -m realtime_core decode`, as it is called."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realtime_core import Begin, Commit
from realtime_core._cli.lines import json_line, text_line
from realtime_core._cli.parser import main
from tests.core import captures
from tests.core.cli.test_captures import framed, transaction

NAME = "truncate_message_origin.bin"
COMMAND = [sys.executable, "-m", "realtime_core"]


def path_of(name: str) -> str:
    path = captures.find(name)
    assert path is not None
    return str(path)


def write(folder: Path, data: bytes) -> str:
    path = folder / "capture"
    path.write_bytes(data)
    return str(path)


def test_changes_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", path_of(NAME)]) == 0
    out, err = capsys.readouterr()
    changes = [e for e in captures.events(NAME) if not isinstance(e, (Begin, Commit))]
    assert out.split("\n") == [*map(json_line, changes), ""]
    assert err == ""


def test_boundaries_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "--boundaries", "--format", "text", path_of(NAME)]) == 0
    out, _ = capsys.readouterr()
    assert out.split("\n") == [*map(text_line, captures.events(NAME)), ""]


def test_several_files_are_decoded_each_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", path_of(NAME)]) == 0
    one = capsys.readouterr().out
    assert main(["decode", path_of(NAME), path_of(NAME)]) == 0
    assert capsys.readouterr().out == one + one


def test_what_comes_before_an_error_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, framed([*transaction("one")[:-1], b"?"]))
    assert main(["decode", path, path_of(NAME)]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["record"] for line in out.splitlines()] == [{"v": "one"}]
    assert err == (
        f"error: {path}, message 4: unknown pgoutput message b'?': the stream was started with "
        "options, or by a server, newer than this decoder\n"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello\n", "not a capture: give what pg_recvlogical wrote"),
        (framed(transaction("x")[:-1]), "message 3: the file ends within a transaction"),
        (gzip.compress(framed(transaction("x")))[:-12], "ended before the end-of-stream marker"),
        (gzip.compress(b"x" * 999)[:10] + b"\xff" * 50, "invalid"),
        (b"\x1f\x8bxxxxxxxxxxxxxxxxxx", "compression method"),
    ],
    ids=["text", "cut", "gzip_cut", "gzip_wrong", "gzip_only_its_magic"],
)
def test_a_file_that_is_no_whole_capture_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    path = write(tmp_path, data)
    assert main(["decode", path]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert main(["decode", str(missing)]) == 2
    assert capsys.readouterr().err == f"error: cannot read {missing}: No such file or directory\n"
    assert main(["decode", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: cannot read {tmp_path}: Is a directory\n"


@pytest.mark.parametrize("arguments", [[], ["decode"], ["decode", "x", "--format", "xml"], ["x"]])
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "--help explains the arguments" in err
    assert err.count("\n") == 1


def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output="stdout" not in settings,
        timeout=60,
        **settings,  # type: ignore[call-overload]
    )


@pytest.mark.slow
def test_standard_input_and_a_locale_without_utf_8() -> None:
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run("decode", "-", input=captures.read(NAME), env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("utf-8").splitlines()
    assert "漢字" in "".join(lines)
    assert json.loads(lines[0])["kind"] == "insert"


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path, framed(transaction(*["x" * 1000] * 3000)))
    with subprocess.Popen(
        [*COMMAND, "decode", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"kind":"insert"')
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line_and_exit_code_1() -> None:
    with open("/dev/full", "wb") as full:
        done = run("decode", path_of(NAME), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write to standard output: No space left on device\n"


@pytest.mark.slow
def test_it_loads_no_driver_and_no_event_loop() -> None:
    program = (
        "import sys\n"
        "from realtime_core._cli.parser import main\n"
        f"main(['decode', {path_of(NAME)!r}])\n"
        "print(*{'asyncio', 'psycopg', 'socket'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.split()) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tail", "doctor"])
def test_without_libpq_it_says_how_to_get_one(command: str) -> None:
    program = (
        "import ctypes.util, sys\n"
        "ctypes.util.find_library = lambda name: None\n"
        "sys.modules['psycopg_c'] = sys.modules['psycopg_binary'] = None\n"
        "from realtime_core._cli.parser import main\n"
        f"sys.exit(main([{command!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: psycopg finds no libpq")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], ["tail"], ["decode"], ["doctor"]])
def test_help_names_the_exit_codes_and_fits_a_terminal(command: list[str]) -> None:
    done = run(*command, "--help", env=os.environ | {"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("usage: python -m realtime_core")
    assert max(map(len, lines)) <= 100
    assert not command or any("exit codes: 0" in line for line in lines)
