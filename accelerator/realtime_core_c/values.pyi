from collections.abc import Callable, Sequence
from typing import Any

def text_function(
    name: str, function: Callable[[str], Any] | None
) -> Callable[[str], Any] | None: ...

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
