"""All pages install the distribution in one way, which is true before a release and after it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from realtime_core import __version__

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "examples").glob("*/README.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].keys() - {"dev", "docs", "test"}
INSTALL = ROOT / "docs" / "howto" / "install.md"
# What a page installs besides: the clients' packages, the accelerator, and what an error message
# names.
OTHERS = {"realtime", "google-re2", "./accelerator"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_installs_from_a_checkout_or_a_wheel(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page == INSTALL:
        wheel = f"dist/realtime_core-{__version__}-py3-none-any.whl"
        assert text.count(wheel) == 1
        text = text.replace(wheel, ".").replace("`pip install realtime-core`", "")
    for installed in re.findall(r"\bpip install (\"[^\"]+\"|[^\s`]+)", text):
        if installed not in OTHERS:
            extras = re.fullmatch(r'"\.\[([a-z,]+)\]"', installed)
            assert extras, installed
            assert set(extras[1].split(",")) <= EXTRAS


def test_who_installs_a_client_says_which_generation() -> None:
    """Where an older one is installed, npm keeps it when it is asked for no version."""
    page = ROOT / "realtime_server" / "net" / "inspector" / "page" / "snippet.js"
    demo = ROOT / "realtime_server" / "demo" / "__main__.py"
    installed = [
        name
        for file in (*PAGES, page, demo)
        for name in re.findall(
            r"npm install (@supabase/[a-z-]+(?:@[\d.]+)?)", file.read_text(encoding="utf-8")
        )
    ]
    assert len(installed) >= 5
    assert [name for name in installed if not re.search(r"@[\d.]+$", name)] == []


def test_a_page_says_nothing_that_a_release_makes_untrue() -> None:
    told = re.compile(r"until there is a release|not (?:yet )?released|once it is released", re.I)
    assert [page for page in PAGES if told.search(page.read_text(encoding="utf-8"))] == []


def test_the_page_about_it_has_all_extras_for_users() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| ", INSTALL.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(EXTRAS)
