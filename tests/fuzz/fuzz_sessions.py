"""Does any message of 64 KB stop others, or leave something behind?

    python -m tests.fuzz.fuzz_sessions --tries 10000000 --seed 1 --jobs 2

holds whole sessions with a server's parts in this process, or in several, until so many messages
were sent, and says what they cost the processor. A session is a client's handshake, some messages,
changes of tables in between, and its end. Most messages are what stock clients send, mutated or
made by their grammar: joins with filters, tokens of all kinds, leaves, heartbeats, binary frames,
fragments, bytes that are no frame, and what is said in rooms, public and private ones, for which
policies answer as chance has it. One in two hundred is made to take long: up to 64 KB of something
repeated; after those come changes with values of 64 KB.

It fails with the first message after which something must not be: an error that nobody has thought
of, a session that does not end, anything left in the hub or the budget when all sessions have
ended; a well-behaved member of a room whose connection ends, or that does not hear just what is
broadcast there; a client that hears a private room in which no policy lets it. And it tells each
message that costs more than 50 ms of the processor's time, with the first change after it. Only
what repeats counts: such a message is tried again, alone with a new server, three times. Python's
garbage collector runs between the messages. The same messages for the same seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any, Final

from tests.fuzz.session_messages import EXPENSIVE
from tests.fuzz.session_report import Report
from tests.fuzz.session_run import CHUNK, run

__all__ = ["main"]

PAUSE: Final = 10.0
"""Seconds from one report to the next."""


def _work(
    reports: Any, job: int, jobs: int, tries: int, seed: int, expensive: float, until: float | None
) -> None:
    """Send every so manieth chunk; put the report so far into a queue now and then, and at last."""
    last = time.monotonic()

    def note(report: Report) -> None:
        nonlocal last
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            reports.put((job, report, False))

    chunks = range(job, tries // CHUNK + jobs + 1, jobs)
    report = run(tries, seed, expensive=expensive, chunks=chunks, until=until, note=note)
    reports.put((job, report, True))


def in_processes(
    jobs: int, tries: int, seed: int, *, expensive: float, until: float | None
) -> Iterator[Report]:
    """Yield what became of all messages so far, now and then; the last one is the whole.

    The messages are the same however many processes send them.

    Raises:
        RuntimeError: if one of them fails; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    # Whole chunks each, and the first few one more.
    whole = -(-tries // CHUNK)
    processes = []
    for job in range(jobs):
        share = (whole // jobs + (job < whole % jobs)) * CHUNK
        arguments = (reports, job, jobs, share, seed, expensive, until)
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
    for process in processes:
        process.start()
    found: dict[int, Report] = {}
    left = jobs
    while left:
        try:
            job, report, is_last = reports.get(timeout=1.0)
        except Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a process has failed") from None
            continue
        found[job] = report
        left -= is_last
        together = Report()
        for each in found.values():
            together.add(each)
        yield together
    for process in processes:
        process.join()


def _save(report: Report, path: Path) -> None:
    """Write a report, and beside it each message that cost too much, as it was sent."""
    path.write_text("".join(f"{line}\n" for line in report.lines()), encoding="utf-8")
    for number, finding in enumerate(report.findings):
        path.with_name(f"{path.name}.{number}").write_bytes(finding.sent.data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold sessions with mutated messages.")
    parser.add_argument("--tries", type=int, required=True, help="messages to send")
    parser.add_argument("--seed", type=int, default=1, help="of the messages")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument(
        "--expensive",
        type=float,
        default=EXPENSIVE,
        help="the share of messages that are made to take long (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, help="stop early, after so many")
    parser.add_argument(
        "--report",
        type=Path,
        help="a file that is written anew now and then; beside it are the messages that cost too "
        "much, as .0, .1 and so on",
    )
    asked = parser.parse_args()
    begin = time.monotonic()
    until = None if asked.minutes is None else begin + 60 * asked.minutes
    report = Report()
    for report in in_processes(
        asked.jobs, asked.tries, asked.seed, expensive=asked.expensive, until=until
    ):
        if asked.report is not None:
            _save(report, asked.report)
    print("\n".join(report.lines()))
    seconds = time.monotonic() - begin
    print(f"{seconds:,.0f} s, {report.tries / seconds:,.0f} messages a second, seed {asked.seed}")
    if report.findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
