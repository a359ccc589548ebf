"""The page that the demo prints for row level security: two people's views of one table."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.inspector_page import ROWS, text_of, use_phone
from tests.server.demo.test_main import Demo, running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

WITHIN = 120
"""Seconds for notes of every kind; there is one a second, or none for an update of nobody's."""


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running() as demo:
        until_ready(demo)
        yield demo


def until_ready(demo: Demo) -> None:
    """Wait until the views' server reads changes; before that their page says that it does not."""
    url = demo.views_url().partition("#")[0]

    def is_ready() -> bool:
        try:
            with urlopen(f"{url}ready", timeout=30):
                return True
        except HTTPError as refused:
            refused.close()
            return False

    eventually_sync(is_ready)


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """The page, with both views joined."""
    with browser.page(demo.views_url()) as page:
        await_views(page)
        yield page
        assert page.complaints == []


def await_views(page: Page) -> None:
    for place in (0, 1):
        page.wait_for(
            f"window.frames[{place}]?.document"
            ".querySelectorAll('#channels [data-state=joined]').length === 1"
        )


def rows_of(page: Page, place: int) -> list[str]:
    rows = page.evaluate(ROWS.replace("document", f"window.frames[{place}].document"))
    assert isinstance(rows, list)
    return rows


def shows(place: int, *parts: str) -> str:
    """Return the condition that a view has a row with all of these parts."""
    rows = ROWS.replace("document", f"window.frames[{place}].document")
    return f"{rows}.some((row) => {json.dumps(parts)}.every((part) => row.includes(part)))"


def test_each_view_has_its_owners_notes_and_the_shared_ones_and_no_other(page: Page) -> None:
    titles = "[0, 1].map((n) => window.frames[n].document.getElementById('title').innerText)"
    assert page.evaluate(titles) == ["Ann", "Bob"]
    for place, mine, other in ((0, "Ann", "Bob"), (1, "Bob", "Ann")):
        page.wait_for(shows(place, f"owner {mine} shared false"), within=WITHIN)
        page.wait_for(shows(place, f"owner {other} shared true"), within=WITHIN)
    # Both had private notes by now, which the other's view could have shown.
    for place, other in ((0, "Bob"), (1, "Ann")):
        rows = rows_of(page, place)
        assert not [row for row in rows if f"owner {other} shared false" in row]
        assert all(row.startswith(("INSERT public.notes ", "UPDATE public.notes ")) for row in rows)


def test_what_the_printed_command_writes_comes_in_anns_view_only(page: Page, demo: Demo) -> None:
    psql = demo.snippet("Write as Ann")
    output = subprocess.check_output(psql, shell=True, text=True, timeout=30)
    assert output.endswith("INSERT 0 1\n")
    page.wait_for(shows(0, "owner Ann shared false note hello"))
    shared = psql.replace("false, 'hello'", "true, 'hello, both'")
    subprocess.check_output(shared, shell=True, text=True, timeout=30)
    for place in (0, 1):
        page.wait_for(shows(place, "owner Ann shared true note hello, both"))
    # The private one was committed first, and changes come in their order.
    assert not [row for row in rows_of(page, 1) if row.endswith("note hello")]


def test_the_views_are_side_by_side_and_one_above_the_other_on_a_phone(page: Page) -> None:
    corners = (
        "[...document.querySelectorAll('iframe')].map((view) => [view.offsetLeft, view.offsetTop])"
    )
    assert page.evaluate(corners) == [[0, 0], [640, 0]]
    use_phone(page)
    page.wait_for(f"{corners}[1][0] === 0 && {corners}[1][1] > 300")
    for place in (0, 1):
        page.wait_for(f"window.frames[{place}].document.querySelector('#feed > li')")
        width = f"window.frames[{place}].document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 375


def test_without_a_token_the_server_shows_nothing(browser: Browser, demo: Demo) -> None:
    url = demo.views_url().partition("#")[0]
    with pytest.raises(HTTPError) as refused, urlopen(f"{url}inspector.json", timeout=30):
        pass
    with refused.value as answer:
        assert answer.code == 401
    with browser.page(url) as page:
        page.wait_for("document.querySelector('#token-form:not([hidden])')")
        assert text_of(page, "#feed") == ""


def test_the_tokens_are_in_that_address_and_in_no_log(browser: Browser) -> None:
    with running() as demo:
        until_ready(demo)
        assert "eyJ" not in demo.said.replace(demo.views_url(), "")
        with browser.page(demo.views_url()) as page:
            await_views(page)
            page.wait_for(shows(0, "owner"))
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0
        assert demo.process.stdout is not None
        # A machine that is busy may have the demo warn of slow policies.
        assert "eyJ" not in demo.process.stdout.read()
