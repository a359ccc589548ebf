from collections.abc import Callable
from typing import Any, TypeAlias

_FieldsReader: TypeAlias = Callable[[bytes, int], tuple[tuple[Any, ...], int]]

class Fields:
    slot: int
    def __init__(self, slot: int) -> None: ...

class RowReader:
    def __init__(self, head: bytes, relation: Any) -> None: ...
    def __call__(self, data: bytes, transaction: Any, index: int) -> Any: ...

def fields_reader(
    columns: int, read_fields: Callable[[bytes, int, int], tuple[tuple[Any, ...], int]]
) -> _FieldsReader: ...
