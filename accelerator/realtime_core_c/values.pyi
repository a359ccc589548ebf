from collections.abc import Callable
from typing import Any

def text_function(
    name: str, function: Callable[[str], Any] | None
) -> Callable[[str], Any] | None: ...
