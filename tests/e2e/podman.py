"""podman with a store of its own, and deploy/'s image on a base made of Debian's packages.

No registry of images is asked: mmdebstrap makes the base, and it is tagged with the name that the
Dockerfile begins with. It has systemd, too, so that a container of it can be a whole machine.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import eventually_sync

__all__ = ["Container", "Podman"]

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.13-slim"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "systemd")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
# crun can do nothing on a machine that has the first version's cgroups, or both. So podman gets
# to see the second version's alone, in a mount namespace of its own.
WITH_CGROUPS = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
NEEDED = 2 << 30
"""Bytes that it takes at most."""


class Podman:
    """Runs podman as root, with images and containers below a folder.

    Args:
        folder: in which it may write, where there is too little shared memory.
    """

    def __init__(self, folder: Path) -> None:
        memory = Path("/dev/shm")
        if memory.exists() and shutil.disk_usage(memory).free > NEEDED:
            folder = memory
        # Many files are made and removed again, which takes a minute on some disks.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="realtime-podman-", dir=folder))
        self._command = (
            *("unshare", "--mount", "sh", "-c", WITH_CGROUPS, "sh", "podman"),
            *("--root", str(folder / "root"), "--runroot", str(folder / "run")),
            *("--tmpdir", str(folder / "tmp"), "--cgroup-manager", "cgroupfs"),
            *("--storage-driver", "overlay"),
        )
        # Nobody may have more than the tests' own process has.
        limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        self._limits = [
            f"--ulimit={name}={soft}:{hard}"
            for name, limit in limits.items()
            for soft, hard in [resource.getrlimit(limit)]
        ]

    def skip_unless_it_works(self) -> None:
        """Skip the test, with the reason, where containers cannot be run."""
        for program in ("podman", "mmdebstrap", "unshare"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed; containers need it")
        if os.getuid() != 0:
            pytest.skip("containers are made by root alone")
        if platform.freedesktop_os_release()["ID"] != "debian":
            pytest.skip("the image's base is made of Debian's packages")
        done = self.attempt("info")
        if done.returncode != 0:
            pytest.skip(f"containers cannot be run here: {done.stderr.strip()}")

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *map(str, arguments)],
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def __call__(self, *arguments: str | Path) -> str:
        """Return what a command prints; it has to succeed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def build(self) -> str:
        """Build deploy/Dockerfile; return the image's name."""
        self._make_base()
        self(
            *("build", "--format", "docker", "--pull=never", "--network", "host", *self._limits),
            # Of the machine's own, for the packages that pip installs.
            *("--volume", f"{AUTHORITIES}:{AUTHORITIES}:ro"),
            *("-f", ROOT / "deploy" / "Dockerfile", "-t", "realtime", ROOT),
        )
        return "realtime"

    def run(self, *arguments: str | Path) -> str:
        """Run a container on the machine's own network; return what is printed.

        Args:
            arguments: of `podman run`: options, the image, and what comes after it.
        """
        return self("run", "--network", "host", "--pids-limit", "0", *self._limits, *arguments)

    @contextmanager
    def running(self, *arguments: str | Path) -> Iterator[Container]:
        """Have a container, as of :meth:`run`, inside the `with` block."""
        name = self.run("--detach", *arguments)
        try:
            yield Container(self, name)
        finally:
            self("rm", "--force", "--time", "0", name)

    def clean_up(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        shutil.rmtree(self._folder)

    def _make_base(self) -> None:
        archive = self._folder / "base.tar"
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        command = (
            *("mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}"),
            # As in the image that it stands for, a python and a pip that may install anything.
            '--customize-hook=chroot "$1" python3 -m venv /usr/local',
            platform.freedesktop_os_release()["VERSION_CODENAME"],
            archive,
            *([sources] if sources.exists() else []),
        )
        made = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(self._folder)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert made.returncode == 0, made.stderr
        # Where packages come from, if it is not where pip looks of itself.
        wanted = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
        changes = [
            f"--change=ENV {name}={os.environ[name]}" for name in wanted if name in os.environ
        ]
        self("import", "--quiet", *changes, archive, BASE)
        archive.unlink()


class Container:
    """A container that runs.

    Args:
        podman: that has started it.
        name: or number.
    """

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self._name = name

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return self._podman.attempt("exec", self._name, *command)

    def __call__(self, *command: str) -> str:
        """Return what a command in it prints; it has to succeed."""
        return self._podman("exec", self._name, *command)

    def is_healthy(self) -> bool:
        """Run its health check once."""
        return self._podman.attempt("healthcheck", "run", self._name).returncode == 0

    def stop(self) -> int:
        """Stop it as `docker stop` would; return the exit code."""
        self._podman("stop", "--time", "15", self._name)
        return int(self._podman("inspect", "--format", "{{.State.ExitCode}}", self._name))

    def wait_for_log(self, text: str) -> None:
        """Wait until the container has logged something."""
        try:
            eventually_sync(lambda: text in self.log())
        except AssertionError:
            pytest.fail(f"{text!r} was not logged:\n{self.log()}")

    def log(self) -> str:
        done = self._podman.attempt("logs", self._name)
        return done.stdout + done.stderr
