"""What the fuzzers do that take a number of inputs and a seed on the command line."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable

__all__ = ["main"]


def main(run: Callable[[int, int], Counter[str]], inputs: str, kept: str) -> None:
    """Try as many inputs as the command line says, and print what came of them.

    Args:
        run: tries a number of inputs, made from a seed; returns how often each outcome came.
        inputs: what the inputs are.
        kept: what all of them have kept, if nothing was raised.
    """
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    start = time.monotonic()
    outcomes = run(count, seed)
    seconds = time.monotonic() - start
    for outcome, number in outcomes.most_common():
        print(f"{number:>12,}  {outcome}")
    print(f"{count:,} {inputs} in {seconds:,.0f} s, seed {seed}: {kept}")
