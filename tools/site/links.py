"""A hook of MkDocs: links from a page to other files of the repository, as `../../deploy/…`.

On a page of the repository they lead to the file as it is there. Of these the site has the READMEs
of the examples, the changelog and the security policy, as pages; links to all others lead to the
repository's address, which pyproject.toml has.

https://www.mkdocs.org/user-guide/configuration/#hooks
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ("CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


class DeadLinkError(ValueError):
    """A page has a link to a file that the repository does not have."""


@cache
def repository() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def to_repository(markdown: str, page: str) -> str:
    """Replace a page's links that lead out of `docs/`.

    Args:
        markdown: the page's text.
        page: its path below `docs/`.

    Raises:
        DeadLinkError: One of them leads nowhere.
    """

    def replace(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), found[1]))
        if path.startswith("docs/"):
            return found[0]
        target = ROOT / path
        if path.startswith("..") or not target.exists():
            raise DeadLinkError(f"docs/{page} has a link to {found[1]}, which does not exist")
        if path in PAGES or (path.startswith("examples/") and path.endswith("/README.md")):
            return f"]({posixpath.relpath(path, posixpath.dirname(page) or '.')}"
        kind = "tree" if target.is_dir() else "blob"
        return f"]({repository()}/{kind}/main/{path}"

    return LINK.sub(replace, markdown)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    return to_repository(markdown, page.file.src_uri)
