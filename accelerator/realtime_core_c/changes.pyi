from collections.abc import Callable, Iterable, Iterator
from typing import Any

class Changes(Iterator[Any]):
    def __init__(
        self,
        payloads: Iterable[bytes],
        opened: Any,
        readers: dict[bytes, Any],
        refuses: bool,
        may_begin: Callable[[], bool],
        long_way: Callable[[bytes], Iterable[Any]],
    ) -> None: ...
    def __next__(self) -> Any: ...
