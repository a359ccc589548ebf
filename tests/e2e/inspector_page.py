"""What the tests of the page at `/` share: looking at it, and using it as people do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.browser import Page
from tests.fix_postgres import TEST_DSN, Server

__all__ = [
    "ROWS",
    "click",
    "is_joined",
    "join",
    "one_server",
    "row_count_is",
    "text_of",
    "type_into",
    "use_phone",
]


@pytest.fixture(scope="module")
def one_server(request: pytest.FixtureRequest) -> Server:
    """One PostgreSQL: what the page shows does not depend on its version."""
    if TEST_DSN:
        return Server(TEST_DSN)
    server: Server = request.getfixturevalue("pg18")
    return server


# Not innerText: rows that are out of sight have none.
ROWS = """[...document.querySelectorAll("#feed > li > details > summary")].map((row) => [
    row.querySelector("b"),
    row.querySelector(".relation, strong"),
    ...row.querySelectorAll(".field i, .value"),
].map((cell) => cell.textContent).join(" "))"""


def is_joined(label: str) -> str:
    """Return the condition that what has this label is being watched."""
    return (
        "[...document.querySelectorAll('#channels [data-state=joined] code')]"
        f".some((code) => code.textContent === {json.dumps(label)})"
    )


def row_count_is(number: int) -> str:
    return f"document.querySelectorAll('#feed > li').length === {number}"


def text_of(page: Page, selector: str) -> str:
    text = page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    assert isinstance(text, str)
    return text


def click(page: Page, selector: str) -> None:
    """Click on an element's middle with the mouse; it must be in sight."""
    place: dict[str, Any] = page.evaluate(
        f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{ block: "nearest" }});
            const {{ x, y, width, height }} = element.getBoundingClientRect();
            const middle = {{ x: x + width / 2, y: y + height / 2 }};
            const hit = document.elementFromPoint(middle.x, middle.y);
            return {{ ...middle, isHit: element.contains(hit) }};
        }})()"""
    )
    assert place["isHit"], f"{selector} is covered"
    for kind in ("mousePressed", "mouseReleased"):
        page.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=place["x"],
            y=place["y"],
            button="left",
            clickCount=1,
        )


def type_into(page: Page, selector: str, text: str, *, enter: bool = False) -> None:
    """Type a text in place of what an input holds, and perhaps press Enter."""
    page.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
    page.call("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp") if enter else ():
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r")


def join(page: Page, topic: str) -> None:
    """Watch a topic, as topic clients do."""
    click(page, "#watch")
    type_into(page, "#topic", topic, enter=True)


def use_phone(page: Page) -> None:
    """Have the screen of a small phone."""
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=375,
        height=667,
        deviceScaleFactor=2,
        mobile=True,
    )
