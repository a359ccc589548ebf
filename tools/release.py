"""`make release`: the files of a release, which anybody can make again byte for byte.

Wheel and sdist, and the accelerator's sdist, are built twice from the last commit, in different
folders, time zones and umasks, with the commit's time as SOURCE_DATE_EPOCH, and have to be the same
both times. The changelog's newest heading has to be the version. Then the README's first steps are
gone through as a newcomer does, with the wheel in a new virtual environment: the demo, `doctor`,
and the program that prints a table's changes; that and `doctor` once more with the sdist in another
one. What passes is put into `dist/`, in place of what an earlier release has left there.

While pyproject.toml has the placeholder for the repository's address there is no release, since
what is uploaded cannot be changed; `--rehearsal` makes the files all the same.

Run it in a checkout, with the extra `dev` installed. Exit codes: 0 with the files in `dist/`, 1 if
there is nothing to release, 2 for an unknown option.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

ROOT = Path.cwd()
PLACEHOLDER = "https://example.org/"
BUILDS: tuple[tuple[str, int, Mapping[str, str]], ...] = (
    ("first", 0o022, {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
    ("second/elsewhere", 0o077, {"TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}),
)
"""Where each build is made, with which umask, and in which environment."""
PATIENCE = 60.0
"""Seconds that a newcomer waits for anything."""


class ReleaseError(Exception):
    """There is nothing to release; the text says why."""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def check_addresses() -> None:
    """Look for the repository's address, which the package's page will have.

    Raises:
        ReleaseError: pyproject.toml has a placeholder in its place.
    """
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    found = [str(number) for number, line in enumerate(lines, 1) if PLACEHOLDER in line]
    if found:
        raise ReleaseError(
            f"{PLACEHOLDER} in pyproject.toml (lines {', '.join(found)}) stands for the "
            "repository's address; put that there. make release REHEARSAL=1 makes the files "
            "without it, to be tried and not to be uploaded"
        )


def build_twice(folder: Path) -> list[Path]:
    """Build the files of the last commit twice, and return those of the first build.

    A wheel of the accelerator would hold for one platform, so it has none.

    Raises:
        ReleaseError: There are changes that are not committed, a build fails, or the second
            build's files are not the first one's.
    """
    if changed := run("git", "status", "--porcelain", cwd=ROOT):
        raise ReleaseError(f"a release is made of a commit; commit or remove first:\n{changed}")
    epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    commit = folder / "commit.tar"
    run("git", "archive", "--format=tar", f"--output={commit}", "HEAD", cwd=ROOT)
    builds = []
    for name, umask, settings in BUILDS:
        source = folder / name / "source"
        source.mkdir(parents=True)
        environment = {**os.environ, **settings, "SOURCE_DATE_EPOCH": epoch}
        # By tar, which heeds the umask.
        run("tar", "-xf", commit, "-C", source, umask=umask)
        out = folder / name / "out"
        for what in ((source,), ("--sdist", source / "accelerator")):
            command = (sys.executable, "-m", "build", "--outdir", out, *what)
            run(*command, env=environment, umask=umask)
        builds.append(sorted(out.iterdir()))
    first, second = builds
    if problems := [text for pair in zip(first, second, strict=True) for text in compare(*pair)]:
        raise ReleaseError("\n".join(["the second build differs from the first:", *problems]))
    return first


def compare(one: Path, other: Path) -> Iterator[str]:
    """Yield what differs between two archives: their names, their members, or only their form."""
    if one.name != other.name:
        yield f"{one.name} is {other.name}"
    elif one.read_bytes() != other.read_bytes():
        members, others = members_of(one), members_of(other)
        differing = sorted(
            name for name in members.keys() | others if members.get(name) != others.get(name)
        )
        yield f"{one.name}: {', '.join(differing) or 'its bytes, though all its members are equal'}"


def members_of(archive: Path) -> dict[str, tuple[object, ...]]:
    """Return what an archive says of each of its files, by name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {
                item.filename: (wheel.read(item), item.date_time, item.external_attr)
                for item in wheel.infolist()
            }
    with tarfile.open(archive) as sdist:
        found: dict[str, tuple[object, ...]] = {}
        for member in sdist.getmembers():
            file = sdist.extractfile(member)
            owner = (member.uname, member.gname, member.uid, member.gid)
            data = file.read() if file is not None else None
            found[member.name] = (data, member.mtime, member.mode, *owner)
        return found


def check_changelog(wheel: Path) -> None:
    """Look for the version where readers look for it.

    Raises:
        ReleaseError: The changelog's newest heading is another one.
    """
    [heading, *_] = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    version = wheel.name.split("-")[1]
    if not re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", heading):
        raise ReleaseError(
            f"CHANGELOG.md begins with {heading!r}; put '{version} - <date>' above its changes"
        )


def follow_the_readme(wheel: Path, sdist: Path, folder: Path) -> None:
    """Go the README's first steps with what was built, in new environments.

    Raises:
        ReleaseError: One of them fails, or prints something else than the README says.
    """
    bin = install(wheel, "demo", folder / "wheel")
    with running(bin / "python", "-m", "realtime_server.demo", cwd=folder, PORT="0") as demo:
        page = re.search(r"http://\S+", demo.wait_for("The demo is at "))
        dsn = re.search(r"postgresql://[^\s']+", demo.wait_for(" -c "))
        assert page is not None
        assert dsn is not None
        with urllib.request.urlopen(page[0], timeout=PATIENCE) as answer:
            if b"<title>" not in answer.read():
                raise ReleaseError(f"there is no page at {page[0]}")
        for name, commands in (
            ("wheel", bin),
            ("sdist", install(sdist, "binary", folder / "sdist")),
        ):
            print_a_tables_changes(commands, dsn[0], folder / name)


def install(file: Path, extra: str, folder: Path) -> Path:
    """Install a file into a new environment; return the folder of its commands.

    Raises:
        ReleaseError: It cannot be installed, or its commands say another version.
    """
    environment = folder / "environment"
    venv.create(environment)
    # Most modules are never imported.
    into = ("--python", environment, "install", "-q", "--no-compile")
    run(sys.executable, "-m", "pip", *into, f"{file}[{extra}]")
    bin = environment / "bin"
    for program in ("realtime-core", "realtime-server"):
        version = run(bin / program, "--version", cwd=folder).split()
        if len(version) != 2 or f"-{version[1]}" not in file.name:
            raise ReleaseError(f"{program} --version prints {' '.join(version)!r}, not {file}")
    return bin


def print_a_tables_changes(bin: Path, dsn: str, folder: Path) -> None:
    """Run the README's program on a database of its own, and change what it says."""
    readme = (ROOT / "README.md").read_text()

    def blocks(language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.M | re.S)

    prepare, changes = blocks("sql")
    (expected,) = blocks("text")
    name, slot = f"shop_{folder.name}", f"etl_{folder.name}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(Identifier(name)))
    shop = make_conninfo(dsn, dbname=name)
    program = folder / "shop.py"
    source = blocks("python")[0].replace('"dbname=shop"', repr(shop)).replace('"etl"', repr(slot))
    program.write_text(source)
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(prepare)
        run(bin / "realtime-core", "doctor", shop, "--publication", "shop", cwd=folder)
        with running(bin / "python", "-u", program, cwd=folder) as printed:
            ready = "select 1 from pg_replication_slots where slot_name = %s and active"
            printed.wait_until(lambda: connection.execute(ready, (slot,)).fetchone() is not None)
            connection.execute(changes)
            wanted = expected.splitlines()
            printed.wait_until(lambda: len(printed.lines) >= len(wanted))
    if printed.lines != wanted:
        raise ReleaseError(f"the README's program printed {printed.lines}, not {wanted}")


class Program:
    """A program that runs, and the lines that it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """Return the first line with this text, as soon as it is printed."""
        self.wait_until(lambda: any(text in line for line in self.lines))
        return next(line for line in self.lines if text in line)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, which is looked at twenty times a second."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._fail("did not come so far")
            time.sleep(0.05)

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        self._process.send_signal(signal.SIGINT)
        if self._process.wait(PATIENCE) != 0:
            self._fail("did not end well after Ctrl-C")

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _fail(self, how: str) -> NoReturn:
        self.end()
        printed = "\n".join(self.lines)
        raise ReleaseError(f"{self._process.args} {how}; it printed:\n{printed}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.lines.extend(map(str.rstrip, lines))


@contextmanager
def running(*command: str | Path, cwd: Path, **environment: str) -> Iterator[Program]:
    """Run a program inside the `with` block, and interrupt it at the end."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    program = Program(process)
    try:
        yield program
        program.interrupt()
    finally:
        program.end()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make wheel and sdist of the last commit.")
    parser.add_argument(
        "--rehearsal",
        action="store_true",
        help="make them although pyproject.toml has no address of the repository",
    )
    arguments = parser.parse_args()
    try:
        if not arguments.rehearsal:
            check_addresses()
        with tempfile.TemporaryDirectory(prefix="release-") as name:
            folder = Path(name)
            print("building wheel and sdists twice", flush=True)
            files = build_twice(folder)
            # The accelerator's sdist comes behind the library's files by its name.
            wheel, sdist, _ = files
            check_changelog(wheel)
            print(f"following the README with {wheel.name} and {sdist.name}", flush=True)
            follow_the_readme(wheel, sdist, folder)
            dist = ROOT / "dist"
            dist.mkdir(exist_ok=True)
            for earlier in [*dist.glob("realtime_core-*"), *dist.glob("realtime_core_c-*")]:
                earlier.unlink()
            for file in files:
                shutil.copyfile(file, dist / file.name)
                print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  dist/{file.name}")
    except ReleaseError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    if arguments.rehearsal:
        print("This was a rehearsal: do not upload these files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
