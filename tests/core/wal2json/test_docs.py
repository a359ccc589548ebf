"""The reference page's example does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "wal2json.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = dict(re.findall(r"^```(python|text)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
    exec(compile(blocks["python"], str(PAGE), "exec"), {})
    assert capsys.readouterr().out == blocks["text"]
