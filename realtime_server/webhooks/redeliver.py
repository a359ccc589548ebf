"""``python -m realtime_server webhooks redeliver``: send dead letters again.

Each is sent once, in the order in which it was given up, with the same ``Idempotency-Key`` and a
new signature. Those that are taken leave the file. After an answer that may be another one later,
or none, nothing more is sent to that endpoint, so that the order stays.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from realtime_core import ConfigError

from ..config import ServerConfig, Webhook
from .client import Client, UnreachableError
from .dead_letters import DeadLetter, DeadLetters
from .retries import Verdict, verdict_on

__all__ = ["run_redeliver"]


async def run_redeliver(
    environ: Mapping[str, str],
    *,
    dev: bool,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.time,
) -> bool:
    """Send the requests in the dead letters again, and list the results.

    Args:
        environ: environment variables. Only those about webhooks are read: no database is needed.
        dev: development defaults.
        tell: prints a line for the operator.
        clock: seconds since 1970.

    Returns:
        Whether no request is left.

    Raises:
        ConfigError: with what is wrong with the variables or the file, also if the file could not
            be replaced in the end.
    """
    wanted = {
        name: value
        for name, value in environ.items()
        if name.startswith("WEBHOOK_") or name == "CONFIGURATION_FILE"
    }
    config = ServerConfig.from_env({**wanted, "SECURE_CHANNELS": "false"}, dev=dev)
    if config.webhook_dead_letters is None:
        raise ConfigError(["WEBHOOK_DEAD_LETTERS is missing: it names the file to send from"])
    letters = DeadLetters(config.webhook_dead_letters)
    async with Client(config) as client:
        run = _Run(config, client, clock)
        try:
            with letters.alone():
                await _send_all(run, letters)
        except FileNotFoundError:
            tell("there are no dead letters")
            return True
        except BlockingIOError:
            raise ConfigError(
                [
                    f"WEBHOOK_DEAD_LETTERS is {letters.path!r}, in whose folder another process "
                    "sends dead letters again; run this when that has ended"
                ]
            ) from None
        except OSError as exc:
            raise ConfigError(
                [f"WEBHOOK_DEAD_LETTERS is {letters.path!r}, which cannot be read ({exc.strerror})"]
            ) from None
    for result in run.summary():
        tell(result)
    return not run.left


async def _send_all(run: _Run, letters: DeadLetters) -> None:
    # Before anything is sent that could not be taken out of the file.
    _check_remove(letters)
    try:
        for line, letter in letters.read():
            await run.send(line, letter)
    finally:
        # Also when it is interrupted.
        if run.taken:
            _remove(letters, run.taken)


def _check_remove(letters: DeadLetters) -> None:
    try:
        letters.check_remove()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ConfigError(
            [
                f"WEBHOOK_DEAD_LETTERS is {letters.path!r}, which cannot be replaced by a file of "
                f"the same owner and group ({exc.strerror}); run this as its owner or as root"
            ]
        ) from None


def _remove(letters: DeadLetters, taken: Collection[tuple[str, str]]) -> None:
    # Nothing else runs by now, and where nothing is awaited, a second signal cannot end it.
    try:
        letters.remove(taken)
    except OSError as exc:
        raise ConfigError(
            [
                f"WEBHOOK_DEAD_LETTERS is {letters.path!r}, which could not be replaced "
                f"({exc.strerror}): {len(taken)} requests were taken by their endpoints, and are "
                "still in it; mend that and run this again, which sends them again with the same "
                "Idempotency-Key"
            ]
        ) from None


class _Run:
    """One pass through the file."""

    def __init__(self, config: ServerConfig, client: Client, clock: Callable[[], float]) -> None:
        self._webhooks: dict[str, Webhook] = {
            webhook.name: webhook for webhook in config.configuration_file.webhooks
        }
        self._secrets = config.webhook_secret
        self._client = client
        self._clock = clock
        self._closed: dict[str, str] = {}
        # A request may be in the file twice: once is enough.
        self.taken: set[tuple[str, str]] = set()
        self.left: Counter[tuple[str, str]] = Counter()

    async def send(self, line: bytes, letter: DeadLetter | None) -> None:
        if letter is None:
            if line.strip():
                self._keep("?", "a line that is not whole, and cannot be sent")
            return
        if letter.key in self.taken:
            return
        webhook = self._webhooks.get(letter.name)
        if webhook is None:
            self._keep(letter.name, "CONFIGURATION_FILE has no webhook of that name")
        elif reason := self._closed.get(letter.name):
            self._keep(letter.name, f"not sent, as one before it could not be: {reason}")
        else:
            await self._try(webhook, letter)

    async def _try(self, webhook: Webhook, letter: DeadLetter) -> None:
        request = letter.request
        headers = request.headers(self._secrets, self._clock())
        try:
            answer = await self._client.post(webhook.endpoint, headers, request.body)
        except UnreachableError as exc:
            verdict, reason = Verdict.AGAIN, str(exc)
        else:
            verdict, reason = verdict_on(answer.status), f"status {answer.status}"
        if verdict is Verdict.DONE:
            self.taken.add(letter.key)
            return
        if verdict is not Verdict.GIVEN_UP:
            self._closed[letter.name] = reason
        self._keep(letter.name, reason)

    def _keep(self, name: str, reason: str) -> None:
        self.left[name, reason] += 1

    def summary(self) -> list[str]:
        lines = [f"{len(self.taken)} taken, {self.left.total()} left"]
        for (name, reason), count in sorted(self.left.items()):
            lines.append(f"  {name}: {count} left: {reason}")
        return lines
