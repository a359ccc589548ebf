"""What a source can be told, and what it says to what it cannot be told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from realtime_core import LSN, ConfigError, MemorySource, PgoutputSource, Position, Wal2JsonSource

PGOUTPUT: dict[str, Any] = {"publications": ["shop"]}


@pytest.mark.parametrize(
    ("source", "arguments", "words"),
    [
        (PgoutputSource, PGOUTPUT | {"slots": "a"}, "no option 'slots': did you mean 'slot'?"),
        (PgoutputSource, PGOUTPUT | {"message": 1}, "no option 'message': did you mean 'messages'"),
        (PgoutputSource, PGOUTPUT | {"own_checkpoint": True}, "no option 'own_checkpoint'"),
        (
            PgoutputSource,
            PGOUTPUT | {"x": 1},
            "no option 'x': it has auto_ack, backoff, ",
        ),
        (Wal2JsonSource, {"format": 1}, "no option 'format': did you mean 'format_version'?"),
    ],
)
def test_an_unknown_option_is_named_as_such(
    source: type, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError) as caught:
        source("", **arguments)
    assert f"{source.__name__} has {words}" in str(caught.value)


@pytest.mark.parametrize("make", [PgoutputSource, MemorySource])
@pytest.mark.parametrize(
    ("start_at", "words"),
    [
        ("16/B374D848:0", "not a str: Position.parse() reads what str(position) wrote"),
        (LSN(5), "not an LSN"),
        (5, "not an int"),
    ],
)
def test_a_start_that_is_no_position_is_told_what_is_wanted(
    make: type, start_at: object, words: str
) -> None:
    arguments = PGOUTPUT if make is PgoutputSource else {}
    with pytest.raises(TypeError) as caught:
        make(**arguments, start_at=start_at)
    assert str(caught.value).startswith("start_at is a Position, or None")
    assert words in str(caught.value)


def test_a_start_may_be_a_position_a_function_or_none() -> None:
    for start_at in (None, Position(LSN(5)), lambda: None):
        PgoutputSource("", publications=["shop"], start_at=start_at)
        MemorySource(start_at=start_at)


@pytest.mark.parametrize("streaming", ["off", "on"])
def test_a_spill_directory_where_nothing_can_be_written_is_said_at_once(
    tmp_path: Path, streaming: Any
) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ConfigError) as caught:
            PgoutputSource(
                "", publications=["shop"], streaming=streaming, spill_directory=directory
            )
        assert f"spill_directory is {str(directory)!r}, where no file can be made" in str(
            caught.value
        )
    before = os.listdir(tmp_path)
    PgoutputSource("", publications=["shop"], streaming=streaming, spill_directory=tmp_path)
    assert os.listdir(tmp_path) == before


def test_an_object_without_a_hook_is_told_what_is_wanted() -> None:
    class Halves:
        def attached(self, *arguments: object) -> None:
            pass

    words = "hooks has no lost.*inherits Hooks, not a Halves"
    with pytest.raises(ConfigError, match=words):
        PgoutputSource("", publications=["shop"], hooks=Halves())  # type: ignore[arg-type]
