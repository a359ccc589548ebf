from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

_FieldsReader: TypeAlias = Callable[[bytes, int], tuple[tuple[Any, ...], int]]

class RowReader:
    def __init__(self, head: bytes, relation: Any) -> None: ...
    def __call__(self, data: bytes, transaction: Any, index: int) -> Any: ...

def fields_reader(
    columns: int, read_fields: Callable[[bytes, int, int], tuple[tuple[Any, ...], int]]
) -> _FieldsReader: ...
def decode_changes(
    payloads: Iterable[bytes],
    opened: Any,
    readers: dict[bytes, Any],
    refuses: bool,
    may_begin: Callable[[], bool],
    long_way: Callable[[bytes], Iterable[Any]],
) -> Iterator[Any]: ...
