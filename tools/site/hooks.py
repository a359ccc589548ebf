"""What the documentation's site has besides docs/: the examples, pages of the repository's root,
and the colours of code.

An example's page is its README, with its files behind. MkDocs calls the functions here while it
builds the site (https://www.mkdocs.org/user-guide/configuration/#hooks).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STYLES = {"light": "default", "dark": "github-dark"}
FROM_THE_ROOT = ("CHANGELOG.md", "SECURITY.md")
LANGUAGES = {".py": "python", ".mjs": "js", ".html": "html", ".sql": "sql"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and style sheets that no file of docs/ is."""
    for readme in [EXAMPLES / "README.md", *sorted(EXAMPLES.glob("*/README.md"))]:
        name = readme.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=page(readme)))
    for name in FROM_THE_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for mode, style in STYLES.items():
        css = HtmlFormatter(style=style).get_style_defs(".highlight")
        files.append(File.generated(config, f"css/code-{mode}.css", content=css))
    return files


def page(readme: Path) -> str:
    """Return an example's page; its links to files are to the files' places on it."""
    # What is in docs/ is at the top of the site.
    parts = [readme.read_text(encoding="utf-8").replace("../docs/", "../")]
    for file in shown(readme.parent):
        anchor = re.sub(r"\W", "-", file.name)
        parts[0] = parts[0].replace(f"]({file.name})", f"](#{anchor})")
        text = file.read_text(encoding="utf-8")
        language = LANGUAGES.get(file.suffix, "text")
        parts.append(f"## {file.name} {{ #{anchor} }}\n\n~~~~{language}\n{text}~~~~\n")
    return "\n".join(parts)


def shown(folder: Path) -> Iterator[Path]:
    """Yield the files that are worth reading."""
    if folder == EXAMPLES:
        yield folder / "requirements.txt"
        return
    yield from sorted(file for file in folder.iterdir() if file.suffix in LANGUAGES)
