"""Reads a Dockerfile, as far as deploy/Dockerfile uses its language."""

from __future__ import annotations

import re

__all__ = ["Dockerfile"]


class Dockerfile:
    """The instructions of each stage, by name; of one that comes twice, the last.

    Args:
        text: of the file.
    """

    def __init__(self, text: str) -> None:
        self.stages: list[dict[str, str]] = []
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            name, _, arguments = line.partition(" ")
            assert re.fullmatch("[A-Z]+", name), f"no instruction: {line}"
            if name == "FROM":
                self.stages.append({})
            self.stages[-1][name] = arguments.strip()
