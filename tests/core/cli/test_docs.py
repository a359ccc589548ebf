"""What the pages on the command line show is what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/howto/decode.md"])
def test_a_command_prints_what_the_page_shows(page: str) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        command, _, output = block.partition("\n")
        done = subprocess.run(
            command.removeprefix("$ ").replace("python", sys.executable, 1),
            shell=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
