"""tools/site/links.py, and that the repository's address is in one place."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Pages of the repository that no folder of docs/ has; the site has the examples', too.
OTHERS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "examples").glob("**/README.md"))]
OTHERS = [page for page in OTHERS if "node_modules" not in page.parts and ".venv" not in page.parts]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["project"]["urls"]["Repository"]


@pytest.fixture(scope="module")
def links() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "docs_links", ROOT / "tools" / "site" / "links.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("[a](../../deploy/Dockerfile)", f"[a]({REPOSITORY}/blob/main/deploy/Dockerfile)"),
        ("[a](../../deploy)", f"[a]({REPOSITORY}/tree/main/deploy)"),
        ("[a](../../README.md#figures)", f"[a]({REPOSITORY}/blob/main/README.md#figures)"),
        ("[a](../../examples/etl/README.md)", "[a](../examples/etl/README.md)"),
        ("[a](../../CHANGELOG.md)", "[a](../CHANGELOG.md)"),
        ("[a](../../SECURITY.md#what-counts)", "[a](../SECURITY.md#what-counts)"),
        ("[a](../../examples/start)", f"[a]({REPOSITORY}/blob/main/examples/start)"),
        ("[a](proxies.md), [b](../index.md#c)", "[a](proxies.md), [b](../index.md#c)"),
        (
            "[a](#here), [b](https://example.com/../../c)",
            "[a](#here), [b](https://example.com/../../c)",
        ),
    ],
)
def test_links_out_of_the_documentation_lead_to_the_repository(
    links: ModuleType, text: str, becomes: str
) -> None:
    assert links.to_repository(text, "howto/containers.md") == becomes


@pytest.mark.parametrize("link", ["../../deploy/nothing", "../../../elsewhere"])
def test_a_link_that_leads_nowhere_is_refused(links: ModuleType, link: str) -> None:
    with pytest.raises(links.DeadLinkError, match=f"docs/howto/x.md has a link to {link}"):
        links.to_repository(f"[a]({link})", "howto/x.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_links_to_files_that_there_are(links: ModuleType, page: Path) -> None:
    # MkDocs looks at links between pages when it builds the site.
    links.to_repository(
        page.read_text(encoding="utf-8"), page.relative_to(ROOT / "docs").as_posix()
    )


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_outside_of_docs_link_to_files_that_there_are(links: ModuleType, page: Path) -> None:
    found = links.LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in found if not (page.parent / link).exists()] == []


def test_each_example_has_a_page_whose_links_are_looked_at() -> None:
    folders = {path for path in (ROOT / "examples").iterdir() if (path / "README.md").exists()}
    assert folders
    assert {folder / "README.md" for folder in folders} < set(OTHERS)


def test_the_repositorys_address_is_in_pyproject_alone() -> None:
    urls = {*PROJECT["project"]["urls"].values()}
    [substitution] = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"][
        "substitutions"
    ]
    assert all(url.startswith(REPOSITORY) for url in urls)
    assert substitution["replacement"] == rf"]({REPOSITORY}/blob/main/\1)"
    files = [*PAGES, *OTHERS, ROOT / "mkdocs.yml", *(ROOT / "deploy").rglob("*")]
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    assert [file for file, text in texts.items() if REPOSITORY in text] == []
