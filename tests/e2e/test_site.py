"""The documentation's site: built strictly, and looked at in a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Browser, Page

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(readme.parent.name for readme in ROOT.glob("examples/*/README.md"))


FOUND = "[...document.querySelectorAll('#mkdocs-search-results a')].map((a) => a.pathname)"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it for whoever publishes it, and says where."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder, SITE_URL="https://docs.example.com/realtime/")
    assert done.returncode == 0, done.stderr
    return folder


def build(folder: Path, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does: what is quiet does not count warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    kept = ("benchmarks", "deploy", "docs", "examples", "realtime_core", "tools")
    unneeded = shutil.ignore_patterns("node_modules", ".venv", "__pycache__")
    for name in kept:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unneeded)
    for file in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "pyproject.toml"):
        shutil.copy(file, tmp_path)
    readme = tmp_path / "examples" / "etl" / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text.replace("exactly-once.md", "exactly-never.md"), encoding="utf-8")
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode == 1
    assert "exactly-never.md' is not found" in done.stderr
    # It is the only one.
    assert done.stderr.count("WARNING") == 1


def open_page(page: Page, expression: str = "true") -> None:
    page.wait_for(f"document.readyState === 'complete' && ({expression})")


def test_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    pages = list(folder.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for loaded in ('src="http', 'src="//', 'rel="stylesheet" href="http'):
            assert loaded not in text, page


def test_the_changelog_and_the_security_policy_are_pages(folder: Path) -> None:
    landing = (folder / "index.html").read_text(encoding="utf-8")
    for name, text in (("CHANGELOG", "Keep a Changelog"), ("SECURITY", "Report a vulnerability")):
        assert f'href="{name}/"' in landing
        assert text in (folder / name / "index.html").read_text(encoding="utf-8")
    support = (folder / "project" / "support" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../SECURITY/"' in support


def test_whoever_publishes_the_site_says_where(folder: Path) -> None:
    sitemap = (folder / "sitemap.xml").read_text(encoding="utf-8")
    assert "<loc>https://docs.example.com/realtime/howto/webhooks/</loc>" in sitemap


def test_every_fence_is_code(folder: Path) -> None:
    for page in folder.rglob("*.html"):
        assert "```" not in page.read_text(encoding="utf-8"), page
    assert 'class="filename">follow.py' in (folder / "tutorial/embedding/index.html").read_text()


def test_the_landing_page_shows_both_ways_in(browser: Browser, url: str) -> None:
    with browser.page(url) as page:
        open_page(page)
        headings = page.evaluate(
            "[...document.querySelectorAll('h2')]"
            ".map((h) => [h.innerText.replace('¶', ''), h.offsetTop])"
        )
        tops = dict(headings)
        assert tops["In your program"] == tops["With the server"]
        assert len(page.evaluate("[...document.querySelectorAll('.highlight .k')].map(String)")) > 3
        menus = page.evaluate(
            "[...document.querySelectorAll('#navbar-collapse > .navbar-nav:first-child > li')]"
            ".map((item) => item.innerText.trim().split('\\n')[0])"
        )
        assert menus == ["Home", "Install", "Library", "Server", "Examples", "Topics", "Project"]
        assert page.complaints == []


def test_dark_mode_follows_the_system_and_can_be_chosen(browser: Browser, url: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    code = "getComputedStyle(document.querySelector('.highlight')).backgroundColor"
    with browser.page(url) as page:
        open_page(page)
        light = page.evaluate(f"[{background}, {code}]")
        prefer(page, "dark")
        page.wait_for("document.documentElement.dataset.bsTheme === 'dark'")
        page.wait_for(
            f"{background} !== {json.dumps(light[0])} && {code} !== {json.dumps(light[1])}"
        )
        page.evaluate("document.querySelector('[data-bs-theme-value=light]').click()")
        page.wait_for(
            f"{background} === {json.dumps(light[0])} && {code} === {json.dumps(light[1])}"
        )
        assert page.complaints == []


def prefer(page: Page, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.call("Emulation.setEmulatedMedia", features=[feature])
    # A page is told of it when it is painted the next time, which may never be where nobody looks.
    page.call("Page.captureScreenshot")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("dead letters", "/howto/webhooks/"),
        ("MAX_CONNECTIONS", "/reference/environment/"),
        ("chat row level security", "/examples/chat/"),
    ],
)
def test_the_search_finds_what_a_reader_looks_for(
    browser: Browser, url: str, words: str, path: str
) -> None:
    with browser.page(f"{url}?q={words.replace(' ', '+')}") as page:
        page.wait_for(f"{FOUND}.includes({json.dumps(path)})")
        assert page.complaints == []


def test_each_examples_page_has_its_code(browser: Browser, url: str) -> None:
    with browser.page(f"{url}examples/") as page:
        open_page(page)
        links = page.evaluate("[...document.querySelectorAll('table a')].map((a) => a.pathname)")
        assert sorted(links) == [f"/examples/{name}/" for name in EXAMPLES]
    with browser.page(f"{url}examples/etl/") as page:
        open_page(page)
        target = page.evaluate("document.querySelector('a[href=\"#etl-py\"]').hash")
        heading = f"document.querySelector({json.dumps(target)})"
        assert page.evaluate(f"{heading}.innerText").startswith("etl.py")
        program = (ROOT / "examples/etl/etl.py").read_text()
        assert page.evaluate("document.querySelector('#etl-py ~ .highlight').innerText") == program
        assert page.complaints == []
