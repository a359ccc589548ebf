"""The arguments of `copy`; what it does is in tests/integration/test_cli_copy.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime_core._cli.copy import _follow as follow_copy
from realtime_core._cli.copy import copy, make_target
from realtime_core.errors import ConfigError
from realtime_core.targets import TargetError


@pytest.mark.parametrize(
    ("place", "source", "target"),
    [
        ("source", "mysql://me:secret@db/shop", "sqlite:shop.db"),
        ("target", "dbname=shop", "mysql://me:secret@db/shop"),
    ],
)
def test_what_is_no_connection_string_is_refused_and_not_quoted(
    place: str, source: str, target: str
) -> None:
    with pytest.raises(ConfigError, match=f"of the {place}, dsn is not a conn") as caught:
        copy(source, target, ["public.t"], name="copy", overwrite=False, dry_run=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("second", ["other.orders", "public.Orders", "other.ORDERS"])
def test_two_tables_that_are_one_in_sqlite_are_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(ConfigError, match="two tables of one name"):
        copy(
            "",
            f"sqlite:{tmp_path / 'copy.db'}",
            ["public.orders", second],
            name="copy",
            overwrite=False,
            dry_run=True,
        )


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "shop.db"
    with pytest.raises(TargetError, match=f"the file '{file}' cannot be opened: unable to open"):
        make_target(f"sqlite:{file}", "copy", [])


class Followed:
    """A copy of one more row with each batch, until Ctrl-C."""

    def __init__(self, batches: int) -> None:
        self._batches, self._copied = batches, 0

    def follow(self, dsn: str, progress: object) -> Iterator[None]:
        for _ in range(self._batches):
            self._copied += 1
            yield
        # With nothing new nothing is said.
        yield
        raise KeyboardInterrupt

    def __str__(self) -> str:
        return f"{self._copied} rows"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, ["progress: 1 rows", "progress: 2 rows", "done: 2 rows"]),
        (3600.0, ["done: 2 rows"]),
    ],
)
def test_it_says_now_and_then_how_far_it_is(
    seconds: float,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("realtime_core._cli.copy._PROGRESS", seconds)
    follow_copy("dbname=shop", Followed(2))  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == said
