"""Environments for the peers, made on first use below ``build/peers`` and kept.

Their requirements are pinned, with hashes, beside this module. A change of the pins, or of the
Python, makes the environment anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["PeerUnavailableError", "npm_folder", "python_with"]

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "peers"


class PeerUnavailableError(Exception):
    """A peer cannot be had on this machine; the text says why."""


def python_with(name: str, at_least: tuple[int, int] = (3, 11)) -> Path:
    """Return the Python of an environment that has ``<name>.txt`` installed, and nothing else.

    Raises:
        PeerUnavailableError: if there is no Python as new, or installing fails.
    """
    requirements = HERE / f"{name}.txt"
    base = _python(at_least)
    folder = BUILD / name
    python = folder / "bin" / "python"
    stamp = _stamp(requirements.read_bytes(), base.encode())
    if not _is_current(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        _run(base, "-m", "venv", str(folder))
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(*pip, "--no-deps", "--require-hashes", "-r", str(requirements))
        _mark(folder, stamp)
    return python


def npm_folder() -> Path:
    """Return a folder whose node_modules are those of ``npm/package-lock.json``.

    Raises:
        PeerUnavailableError: if there is no Node, or installing fails.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise PeerUnavailableError("node and npm are not installed")
    folder = BUILD / "npm"
    files = [HERE / "npm" / name for name in ("package.json", "package-lock.json", ".npmrc")]
    stamp = _stamp(*(file.read_bytes() for file in files))
    if not _is_current(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
        npm = ("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
        _run(*npm, "--prefix", str(folder))
        _mark(folder, stamp)
    return folder


def _python(at_least: tuple[int, int]) -> str:
    """Return a Python as new as that: this one, else the first in the path or of pyenv's."""
    candidates = [
        sys.executable,
        *(f"python3.{minor}" for minor in range(at_least[1], at_least[1] + 4)),
        *(str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))),
    ]
    check = f"import sys, ensurepip; sys.exit(sys.version_info[:2] < {at_least})"
    for candidate in candidates:
        if shutil.which(candidate) is None:
            continue
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return candidate
    raise PeerUnavailableError(f"there is no Python {at_least[0]}.{at_least[1]} or newer")


def _run(*command: str) -> None:
    print(f"   {' '.join(command)}", file=sys.stderr)
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        problem = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise PeerUnavailableError(f"{command[0]} failed: {problem[-1] if problem else ''}")


def _stamp(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_current(folder: Path, stamp: str) -> bool:
    file = folder / "stamp"
    return file.is_file() and file.read_text() == stamp


def _mark(folder: Path, stamp: str) -> None:
    (folder / "stamp").write_text(stamp)
