"""The reference pages say what the code says."""

from __future__ import annotations

import pytest

from tests.reference_pages import PARTS, ROOT, rewritten


@pytest.mark.parametrize("page", sorted({page for page, _ in PARTS}))
def test_a_generated_part_is_as_it_would_be_generated_now(page: str) -> None:
    told = "python -m tests.reference_pages writes it anew"
    assert (ROOT / page).read_text(encoding="utf-8") == rewritten(page), told
