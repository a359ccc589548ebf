"""What `make release` makes, of this tree in a repository of its own."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from types import ModuleType

import pytest

from realtime_core import __version__

# Two environments are made and filled.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
COMMITTED = 1_700_000_000
"""When the commit was made, in seconds since 1970."""
PACKAGED_TESTS = (
    *("tests/core/wal2json", "tests/core/test_docs_etl.py", "tests/server/phoenix"),
    *("tests/test_architecture.py", "tests/test_reference_pages.py"),
)
"""Of the unit tests, a part that takes seconds: with captures, pages and all modules."""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=560)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One commit with all files of this tree, as they are now, but for the changelog's heading."""
    folder = tmp_path_factory.mktemp("release") / "repository"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    # What is under development has no release's heading yet.
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    heading = f"## {__version__} - 2026-12-01\n"
    changelog.write_text(text.replace("## Unreleased\n", heading), encoding="utf-8")
    me = ("env", f"GIT_COMMITTER_DATE=@{COMMITTED} +0000", "git", "-c", "user.name=Ada")
    for command in (
        ("git", "init", "--quiet"),
        ("git", "add", "--all"),
        (*me, "-c", "user.email=ada@example.org", "commit", "--quiet", "--message=all"),
    ):
        done = run(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def dist(repository: Path) -> Path:
    """The folder of the files that were made."""
    earlier = repository / "dist" / "realtime_core-0.9-py3-none-any.whl"
    earlier.parent.mkdir()
    earlier.touch()
    done = run(sys.executable, "tools/release.py", "--rehearsal", cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "do not upload" in done.stdout
    assert not earlier.exists()
    assert re.search(r"^[0-9a-f]{64}  dist/realtime_core-.*\.whl$", done.stdout, re.M)
    assert run("git", "status", "--porcelain", cwd=repository).stdout == ""
    return repository / "dist"


def only(dist: Path, pattern: str) -> Path:
    [file] = dist.glob(pattern)
    return file


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Message:
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        [name] = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        return BytesParser().parsebytes(wheel.read(name))


def test_what_is_in_the_files_is_as_old_as_the_commit(dist: Path) -> None:
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        # Zip files count in steps of two seconds.
        assert {item.date_time for item in wheel.infolist()} == {time.gmtime(COMMITTED)[:6]}
    with tarfile.open(only(dist, "realtime_core-*.tar.gz")) as sdist:
        assert {item.mtime for item in sdist.getmembers()} == {COMMITTED}


def test_the_accelerators_sources_are_among_the_files(dist: Path) -> None:
    file = only(dist, "realtime_core_c-*.tar.gz")
    assert file.name == f"realtime_core_c-{__version__}.tar.gz"
    with tarfile.open(file) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers()}
        assert {member.mtime for member in sdist.getmembers()} == {COMMITTED}
    assert names >= {"LICENSE", "README.md", "hatch_build.py", "realtime_core_c/rows.pyx"}
    assert not [name for name in names if name.endswith((".c", ".so"))]


def test_changes_that_are_not_committed_are_refused(repository: Path, dist: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in dist.iterdir()}
    (repository / "new.py").touch()
    try:
        done = run(sys.executable, "tools/release.py", "--rehearsal", cwd=repository)
    finally:
        (repository / "new.py").unlink()
    assert (done.returncode, done.stderr) == (
        1,
        "no release: a release is made of a commit; commit or remove first:\n?? new.py\n\n",
    )
    assert {file: file.stat().st_mtime_ns for file in dist.iterdir()} == before


def test_without_an_address_of_the_repository_nothing_is_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = run(sys.executable, ROOT / "tools" / "release.py", cwd=tmp_path)
    assert done.returncode == 1
    assert re.match(
        r"no release: https://example\.org/ in pyproject\.toml \(lines (\d+, ){5}\d+\) stands for "
        r"the repository's address; put that there\. make release REHEARSAL=1 ",
        done.stderr,
    )
    assert [file.name for file in tmp_path.iterdir()] == ["pyproject.toml"]


def test_an_address_of_the_repository_is_all_that_it_asks_for(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(release.ReleaseError):
        release.check_addresses()
    settled = text.replace("https://example.org/realtime-core", "https://git.example.com/core")
    (tmp_path / "pyproject.toml").write_text(settled)
    release.check_addresses()


def test_the_page_of_the_package_has_no_relative_link(metadata: Message) -> None:
    urls = dict(text.split(", ") for text in metadata.get_all("Project-URL", []))
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    page = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 10
    for link in links:
        assert link.startswith(f"{urls['Repository']}/blob/main/")
        path = link.removeprefix(f"{urls['Repository']}/blob/main/").partition("#")[0]
        assert (ROOT / path).exists(), link


def test_the_metadata_name_what_is_supported(metadata: Message) -> None:
    classifiers = set(metadata.get_all("Classifier", []))
    assert {"Typing :: Typed", "Framework :: AsyncIO"} < classifiers
    versions = {name.rpartition(" :: ")[2] for name in classifiers if ":: Python :: 3." in name}
    assert versions == {"3.11", "3.12", "3.13", "3.14"}
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Author"]


def test_no_package_is_asked_for_twice() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in (project["dependencies"], *project["optional-dependencies"].values()):
        names = []
        for requirement in wanted:
            name, *extras = re.findall(r"[a-z0-9-]+", re.split(r"[<>=;]", requirement)[0])
            # psycopg[pool] is psycopg and psycopg-pool.
            names += [name, *(f"{name}-{extra}" for extra in extras)]
        assert len(names) == len(set(names))


def test_the_sdist_brings_tests_that_pass(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(only(dist, "realtime_core-*.tar.gz")) as sdist:
        sdist.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    for name in ("Makefile", "mkdocs.yml", "docs/index.md", "benchmarks/e2e.py", "tests/data"):
        assert (unpacked / name).exists()
    tested = run(
        *(sys.executable, "-c", "import realtime_core, realtime_server as s; print(s.__file__)"),
        cwd=unpacked,
    )
    assert tested.stdout == f"{unpacked / 'realtime_server' / '__init__.py'}\n"
    few = "not slow and not integration and not e2e"
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", few),
        *PACKAGED_TESTS,
        cwd=unpacked,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed", done.stdout, re.M)
    assert passed is not None
    assert int(passed[1]) > 500


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("heading", ["Unreleased", "1.0.0 - 2026-11-28", "1.0.0rc2"])
def test_the_version_has_to_be_in_the_changelog(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heading: str
) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    changelog = tmp_path / "CHANGELOG.md"
    wheel = tmp_path / "realtime_core-1.0.0rc2-py3-none-any.whl"
    changelog.write_text("# Changelog\n\n## 1.0.0rc2 - 2026-12-01\n\n## 1.0.0rc1 - 2026-11-28\n")
    release.check_changelog(wheel)
    changelog.write_text(f"# Changelog\n\n## {heading}\n")
    with pytest.raises(release.ReleaseError, match=r"put '1\.0\.0rc2 - <date>' above"):
        release.check_changelog(wheel)


def make_wheel(path: Path, text: str, *, minute: int = 0, name: str = "a.py") -> Path:
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, minute, 0)), text)
        wheel.writestr(zipfile.ZipInfo("b.py", (2026, 1, 1, 0, 0, 0)), "same")
    return path


def test_files_that_differ_are_named(release: ModuleType, tmp_path: Path) -> None:
    one = make_wheel(tmp_path / "1" / "x.whl", "a")
    same = make_wheel(tmp_path / "2" / "x.whl", "a")
    assert list(release.compare(one, same)) == []
    edited = make_wheel(tmp_path / "3" / "x.whl", "A")
    later = make_wheel(tmp_path / "4" / "x.whl", "a", minute=1)
    moved = make_wheel(tmp_path / "5" / "x.whl", "a", name="c.py")
    assert list(release.compare(one, edited)) == ["x.whl: a.py"]
    assert list(release.compare(one, later)) == ["x.whl: a.py"]
    assert list(release.compare(one, moved)) == ["x.whl: a.py, c.py"]
    same.write_bytes(same.read_bytes() + b"\0")
    assert list(release.compare(one, same)) == [
        "x.whl: its bytes, though all its members are equal"
    ]
