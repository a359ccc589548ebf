"""Does any input break the promise: a message, or a DecodeError?

    python -m tests.fuzz.fuzz_pgoutput COUNT [SEED]

tries COUNT inputs, says what became of them, and fails with the first one that broke the
promise. Plain Python on one core; the same inputs for the same seed.

An input is bytes for the decoder: mostly a message of a capture or of a random stream with
some mutations (a byte or a number replaced, a stretch cut, doubled, or taken from another
message), else random bytes behind a message's tag. It is decoded outside of a stream block or
inside, with short aborts or long, by a decoder that knows the captures' tables. What decodes
must encode to the same bytes again.

One input in a hundred is a stream for decoder and assembler: of a capture or at random, with
messages left out, doubled, swapped and mutated, and little memory to hold it. It must become
changes, framed by the Begin and Commit of their transactions, or a DecodeError, after which
the assembler takes nothing more; and the same changes, to the same end, by the short cuts.

`python -m tests.fuzz.fuzz_pgoutput 10000000 1` was run whole; docs/project/contributing.md has
what it took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

from realtime_core import Begin, Commit, DecodeError, Event, LogicalMessage
from realtime_core.pgoutput import Assembler, ChangeDecoder, Decoder
from tests.core.captures import payloads
from tests.fuzz.command_line import main
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import Server, seen

__all__ = ["BrokenPromiseError", "CAPTURES", "mutated", "mutated_stream", "run"]

CAPTURES = (
    "replica_identity.bin",
    "types_text.bin",
    "types_binary.bin",
    "truncate_message_origin.bin",
    "publication_filters.bin",
    "twophase_v3.bin",
)
TAGS = b"BCORYIUDTMSEcAbPpKr"
WITH_XID = b"RYIUDTM"
START, STOP = b"S\x00\x00\x00\x01\x01", b"E"
# What lengths and counts look like when they are wrong.
NUMBERS = (b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x00\x00", b"\xff\xff")
LETTERS = b"ntubNKOdfi\x00\x01\x80\xff"

CHUNK = 10_000
STREAM_SHARE = 100


class BrokenPromiseError(Exception):
    """An input that is neither a message nor a DecodeError."""

    def __init__(self, data: bytes | list[bytes], what: object = "") -> None:
        self.data = data
        shown = repr(data) if isinstance(data, bytes) else f"a stream of {len(data)} messages"
        super().__init__(f"{shown[:4000]} {what!r}")


def run(count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` inputs; return how many became what.

    Raises:
        BrokenPromiseError: with the input, and the seed and chunk that make it again.
    """
    outcomes: Counter[str] = Counter()
    for chunk, start in enumerate(range(0, count, CHUNK)):
        random = Random(f"{seed} {chunk}")
        try:
            outcomes += _chunk(random, min(CHUNK, count - start))
        except BrokenPromiseError as error:
            error.add_note(f"seed {seed}, chunk {chunk}")
            raise
    return outcomes


def _chunk(random: Random, count: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    # By stream block, and by the kind of abort.
    decoders = [_decoder(inside=inside, parallel=parallel) for inside, parallel in _places()]
    places = list(enumerate(_places()))
    streams = count // STREAM_SHARE
    for _ in range(streams):
        outcomes[f"stream: {_try_stream(random)}"] += 1
    for _ in range(count - streams):
        number, (inside, _) = random.choice(places)
        data = _input(random, inside)
        outcomes[_try_message(decoders[number], inside, data)] += 1
    return outcomes


def _places() -> list[tuple[bool, bool]]:
    return [(inside, parallel) for inside in (False, True) for parallel in (False, True)]


# The decoder


def _decoder(*, inside: bool, parallel: bool) -> Decoder:
    decoder = Decoder(abort_info=parallel)
    for relation in _messages()[ord("R")]:
        decoder.decode(relation)
    if inside:
        decoder.decode(START)
    return decoder


def _try_message(decoder: Decoder, inside: bool, data: bytes) -> str:
    try:
        message = decoder.decode(data)
    except DecodeError as error:
        return type(error).__name__
    except Exception as error:
        raise BrokenPromiseError(data) from error
    if encode(message) != data:
        raise BrokenPromiseError(data, message)
    # Back to where it was.
    if data[:1] == b"S":
        decoder.decode(STOP)
    elif data[:1] == b"E":
        decoder.decode(START)
    return "message"


@cache
def _messages() -> dict[int, list[bytes]]:
    """Return the messages to start from, outside of a stream block, by tag."""
    found: dict[int, list[bytes]] = {tag: [] for tag in TAGS}
    for name in CAPTURES:
        for data in payloads(name):
            found[data[0]].append(data)
    for seed in range(20):
        for data in _random_stream(Random(seed)):
            if data[0] not in WITH_XID:
                found[data[0]].append(data)
    return found


def _input(random: Random, inside: bool) -> bytes:
    tag = random.choice(TAGS)
    if random.random() < 0.1:
        return bytes([tag]) + random.randbytes(int(random.expovariate(0.05)))
    data = random.choice(_messages()[tag])
    if inside and tag in WITH_XID:
        data = data[:1] + random.randbytes(4) + data[1:]
    return mutated(random, data)


def mutated(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 6))):
        random.choice(_MUTATIONS)(random, changed)
    return bytes(changed)


def _replace_byte(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice(LETTERS)


def _flip_bit(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _replace_number(random: Random, data: bytearray) -> None:
    number = random.choice(NUMBERS)
    start = random.randint(0, len(data))
    data[start : start + len(number)] = number


def _cut_end(random: Random, data: bytearray) -> None:
    del data[random.randint(0, len(data)) :]


def _cut_out(random: Random, data: bytearray) -> None:
    start = random.randint(0, len(data))
    del data[start : start + random.randint(1, 8)]


def _double(random: Random, data: bytearray) -> None:
    start = random.randint(0, len(data))
    data[start:start] = data[start : start + random.randint(1, 16)]


def _splice(random: Random, data: bytearray) -> None:
    other = random.choice(_messages()[random.choice(TAGS)])
    start, length = random.randint(0, len(other)), random.randint(1, 16)
    place = random.randint(0, len(data))
    data[place : place + random.choice((0, length))] = other[start : start + length]


_MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_replace_byte, _flip_bit, _replace_number),
    *(_cut_end, _cut_out, _double, _splice),
)


# The assembler


def _random_stream(random: Random, *, parallel: bool = False) -> list[bytes]:
    server = Server(random, parallel=parallel)
    for _ in range(40):
        server.step()
    return [encode(message) for message in server.messages]


@cache
def _captured(name: str) -> list[bytes]:
    return list(payloads(name))


def mutated_stream(random: Random, parallel: bool) -> list[bytes]:
    if random.random() < 0.7:
        stream = _random_stream(random, parallel=parallel)
    else:
        stream = _captured(random.choice(CAPTURES))
        start = random.choice((0, random.randrange(len(stream))))
        stream = stream[start : start + 200]
    for _ in range(random.choice((0, 1, 2, 5))):
        place, other = random.randrange(len(stream)), random.randrange(len(stream))
        match random.randrange(4):
            case 0 if len(stream) > 1:
                del stream[place]
            case 1:
                stream.insert(other, stream[place])
            case 2:
                stream[place], stream[other] = stream[other], stream[place]
            case _:
                stream[place] = mutated(random, stream[place])
    return stream


def _try_stream(random: Random) -> str:
    parallel = random.random() < 0.5
    stream = mutated_stream(random, parallel)
    max_memory = random.choice((0, 1000, 2**20))
    assembler = Assembler(max_memory=max_memory)
    decoder = ChangeDecoder(abort_info=parallel, max_memory=max_memory)
    try:
        outcome = _outcome(_feed(Decoder(abort_info=parallel), assembler, stream), stream)
        at_once = _outcome(decoder.decode(stream), stream)
    finally:
        assembler.close()
        decoder.close()
    if at_once != outcome:
        raise BrokenPromiseError(stream, (at_once, outcome))
    return outcome[-1]


def _outcome(events: Iterator[Event], stream: list[bytes]) -> list[Any]:
    """Return the events as plain values, and in the end what became of the stream."""
    transaction = None
    found: list[Any] = []
    try:
        for event in events:
            within = getattr(event, "transaction", None)
            match event:
                case Begin() if transaction is None:
                    transaction = within
                case Commit() if transaction == within:
                    transaction = None
                case LogicalMessage(transaction=None):
                    pass
                case Begin() | Commit():
                    raise BrokenPromiseError(stream, event)
                case _ if within is None or within != transaction:
                    raise BrokenPromiseError(stream, event)
            found.append(seen(event))
    except DecodeError as error:
        return [*found, type(error).__name__]
    except BrokenPromiseError:
        raise
    except Exception as error:
        raise BrokenPromiseError(stream) from error
    return [*found, "changes"]


def _feed(decoder: Decoder, assembler: Assembler, stream: list[bytes]) -> Iterator[Event]:
    """Yield what comes out of a stream; a message that does not decode ends it."""
    for data in stream:
        message = decoder.decode(data)
        try:
            yield from assembler.feed(message)
        except DecodeError:
            _refuses(assembler, message, stream)
            raise


def _refuses(assembler: Assembler, message: object, stream: list[bytes]) -> None:
    try:
        assembler.feed(message)  # type: ignore[arg-type]
    except DecodeError as error:
        if "start with a new one" in str(error):
            return
    raise BrokenPromiseError(stream, "the assembler goes on after an error")


if __name__ == "__main__":
    main(run, "inputs", "every one kept the promise")
