"""How much memory the process may have."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from realtime_server.config.process_memory import memory_limit

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def limit(directory: Path, groups: str, files: dict[str, str]) -> int:
    (directory / "groups").write_text(groups)
    for name, text in files.items():
        path = directory / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_limit(cgroup_file=directory / "groups", cgroups=directory / "cgroup")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a/b\n", {"a/b/memory.max": f"{64 * MIB}\n", "a/memory.max": "max\n"}),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{64 * MIB}\n"}),
        ("0::/a\n", {"memory.max": f"{64 * MIB}\n"}),
        ("0::/../../a\n", {"memory.max": f"{64 * MIB}\n"}),
        ("4:memory:/a\n1:cpu:/b\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{64 * MIB}\n"}),
        ("4:cpu,memory:/a\n", {"memory/memory.limit_in_bytes": f"{64 * MIB}\n"}),
    ],
)
def test_the_least_bound_of_the_control_groups_holds(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert limit(tmp_path, groups, files) == 64 * MIB


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/a\n", {}),
        ("0::/a\n", {"a/memory.max": "max\n"}),
        ("0::/a\n", {"a/memory.max": "much\n"}),
        ("what is this\n", {}),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}),
        ("1:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "5\n"}),
    ],
)
def test_without_one_it_is_what_the_machine_has(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert limit(tmp_path, groups, files) == PHYSICAL


def test_there_may_be_no_control_groups(tmp_path: Path) -> None:
    assert memory_limit(cgroup_file=tmp_path / "none", cgroups=tmp_path) == PHYSICAL


@pytest.mark.slow
def test_an_address_space_that_is_bounded_counts(tmp_path: Path) -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from realtime_server.config.process_memory import memory_limit; print(memory_limit())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(found.stdout) == min(1 << 30, memory_limit())


FREES = """
import sys
from pathlib import Path
from realtime_server.config.process_memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "returned":
    return_freed_memory()
before = resident()
# What glibc adapts to.
large = bytearray(30 << 20)
del large
buffers, small = [], []
for _ in range(30):
    buffers.append(bytearray(b"x") * (1 << 20))
    small.append(bytes(2000))
buffers.clear()
print((resident() - before) >> 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do not adapt")
def test_the_memory_of_freed_buffers_is_returned() -> None:
    def left(how: str) -> int:
        command = [sys.executable, "-c", FREES, how]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MALLOC")
        }
        return int(subprocess.check_output(command, env=environment, text=True))

    assert left("kept") > 20
    assert left("returned") < 5
