from collections.abc import Callable, Sequence
from typing import Any

class RowLoader:
    def __init__(
        self,
        names: Sequence[str],
        types: Sequence[str],
        functions: Sequence[Callable[[str], Any]],
        convert: Callable[[int, Any], Any],
    ) -> None: ...
    def __call__(
        self, fields: tuple[Any, ...], omit_unchanged: bool, on_error: Any
    ) -> dict[str, Any]: ...

def as_python(self: Any, *, omit_unchanged: bool = False, on_error: Any = "raise") -> Any: ...
